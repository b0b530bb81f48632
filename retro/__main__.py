"""`python -m retro`: the same as the `retro` command."""

from retro.cli import main

if __name__ == "__main__":
    main()
