"""Hostile files, one module per format: original files, ways to damage them, and the expected results of reading
them."""
