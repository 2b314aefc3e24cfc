"""One file a way to make maps."""
