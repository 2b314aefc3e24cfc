"""Checks of maps and networks: whether a map is faithful, and how a network answers when its pixels are attacked."""
