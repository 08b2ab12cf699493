"""One runnable script per question: `python -m qwafer.diagnostics.NAME`; `python -m qwafer` lists them."""
