"""Networks, their configs and their weights."""
