"""How much of the held-out text is in the training text, and what perplexity is without it."""
