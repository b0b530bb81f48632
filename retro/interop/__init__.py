"""Other tools: NVIDIA databases in, folders for HuggingFace transformers out."""
