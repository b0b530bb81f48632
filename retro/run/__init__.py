"""A run as a whole: its settings, the order of its stages, status, verification and repair."""
