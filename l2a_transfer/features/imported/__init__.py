"""Features that another program computed: read from its files, or given as arrays, and written as a feature file."""
