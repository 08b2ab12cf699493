"""Questions asked of a trained head."""
