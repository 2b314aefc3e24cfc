"""How well features generalize: protocols, measurements, statistics and their results."""
