"""Losses of a dense retriever: `functions` on tensors, `modules` for the trainer, `build` from settings to a module."""
