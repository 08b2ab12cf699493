"""The verbs: parse, call the library, print."""
