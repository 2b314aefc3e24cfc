"""Extract a feature file from an image source with a backend, in ranges that can be resumed and distributed."""
