"""Tests here import megatron-core themselves, which works without CUDA once the adapter is applied."""

import retro.mcore  # noqa: F401
