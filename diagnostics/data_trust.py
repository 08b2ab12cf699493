"""Can these features and this split be trusted?

The same as `python -m qwafer.diagnostics.data_trust`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwafer.diagnostics.data_trust", run_name="__main__")
