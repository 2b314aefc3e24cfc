"""The feature file: its schema, and how it is written, checked and read."""
