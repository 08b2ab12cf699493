"""Questions asked of a circuit."""
