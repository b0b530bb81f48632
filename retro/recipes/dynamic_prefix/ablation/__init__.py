"""Variants side by side in one table."""
