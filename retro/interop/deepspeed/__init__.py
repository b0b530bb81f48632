"""A run beside a DeepSpeed file, or the arguments of HuggingFace's Trainer: mismatches, and the right file."""
