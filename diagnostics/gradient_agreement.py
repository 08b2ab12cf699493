"""Does the engine compute the right gradient?

The same as `python -m qwafer.diagnostics.gradient_agreement`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwafer.diagnostics.gradient_agreement", run_name="__main__")
