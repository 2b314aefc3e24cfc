"""The torch modules of the families, one file a family; imported when a network is built."""
