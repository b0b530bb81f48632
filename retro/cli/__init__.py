"""The `retro` command: one file a group of commands; what a command prints lies in a file of its own."""
