"""Retrieval-augmented language models on megatron-core.

Importing this package loads neither torch, megatron nor faiss: every heavy import happens in the stage that needs it.
"""

__version__ = "0.1.0"
