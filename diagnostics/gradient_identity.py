"""Does a trainable readout weight learn?

The same as `python -m qwafer.diagnostics.gradient_identity`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwafer.diagnostics.gradient_identity", run_name="__main__")
