"""The only place that imports megatron. Importing it applies the CPU adapter where CUDA is absent."""

from retro.mcore.cpu import apply_cpu_adapter

apply_cpu_adapter()
