"""How good it is: linear SVMs, protocols, statistics, reports."""
