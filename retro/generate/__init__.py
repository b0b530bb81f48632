"""Stage 7: answers, with the passages that were read."""
