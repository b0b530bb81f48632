"""Text to token ids and back: SentencePiece and HuggingFace files, chat templates, fast encoding."""
