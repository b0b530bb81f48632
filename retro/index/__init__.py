"""Stage 3: embed every chunk, and index the vectors with Faiss."""
