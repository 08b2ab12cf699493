"""Does the router of a mixture know where it errs?

The same as `python -m qwafer.diagnostics.router_doubt`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwafer.diagnostics.router_doubt", run_name="__main__")
