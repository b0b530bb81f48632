"""Scores of each mode, and measures of hallucination."""
