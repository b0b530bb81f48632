"""Self-RAG (Asai et al. 2024, arXiv:2310.11511): a model says when to search, and judges what it found and wrote."""
