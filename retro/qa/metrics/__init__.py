"""Metrics of answers, by name; `registry.py` holds them."""
