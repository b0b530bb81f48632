"""Stage 1: text to token files, a tokenizer and a split."""
