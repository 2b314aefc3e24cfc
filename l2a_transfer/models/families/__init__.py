"""Families of networks as data, one file per family, without torch. Their torch modules are in `models/networks`."""
