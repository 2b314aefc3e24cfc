"""Checks of maps and networks: does a map depend on the network, is it faithful, what does an attack leave right."""
