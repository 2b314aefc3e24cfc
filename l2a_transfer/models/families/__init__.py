"""What a family of networks is, as data: one file a family, without torch. Its modules are in `models/networks`."""
