"""Chunks, neighbors and samples of a run: on the terminal, and as one HTML page."""
