"""Output: backends, the feature store, extraction."""
