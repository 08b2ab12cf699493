"""Is there anything quantum here?

The same as `python -m qwafer.diagnostics.nulls`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwafer.diagnostics.nulls", run_name="__main__")
