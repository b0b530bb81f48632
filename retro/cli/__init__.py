"""The `retro` command: one file a group of commands; what a command prints is in a file of its own."""
