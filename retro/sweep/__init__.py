"""Checkpoints x tasks x settings, generated and scored into one table."""
