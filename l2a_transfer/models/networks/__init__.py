"""The torch modules of the families, one file per family; imported when a network is built."""
