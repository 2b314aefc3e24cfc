"""Where a network looks: maps, how they are drawn, and how they are tested."""
