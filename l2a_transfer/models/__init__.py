"""What is computed: networks, their configs and their weights."""
