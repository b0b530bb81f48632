"""InstructRAG (Wei et al. 2025, arXiv:2406.13629): a model learns to explain how documents lead to the answer."""
