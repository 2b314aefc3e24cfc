"""Checks of maps and networks: dependence of maps on the network, faithfulness, and robustness to attacks."""
