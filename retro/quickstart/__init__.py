"""What retrieval is worth, shown on the documents of the machine's own Python packages: `retro quickstart`."""
