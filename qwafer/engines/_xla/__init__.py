"""The plans of the `xla` engine: several ways to the same numbers, of different cost."""
