"""The `catalyst` engine: its batchings, its runtime, and the questions that guard it."""

from qwafer.engines.catalyst.engine import CatalystEngine as CatalystEngine
