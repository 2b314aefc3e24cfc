"""What comes out: backends, the feature store, extraction."""
