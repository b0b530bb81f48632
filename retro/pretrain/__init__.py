"""Stage 5: pretraining and perplexity."""
