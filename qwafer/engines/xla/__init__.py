"""The `xla` engine: a file a plan, and the cost model that chooses among them."""

from qwafer.engines.xla.engine import XlaEngine as XlaEngine
