"""Retro on megatron-core, its reference in plain torch, and its sizes."""
