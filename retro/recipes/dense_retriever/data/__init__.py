"""Pairs, their split, and documents cut into segments."""
