"""Features of other programs: read from their files, or given as arrays, and written to a feature file."""
