"""What it looked at: attention maps over pictures."""
