"""Map methods, one file each."""
