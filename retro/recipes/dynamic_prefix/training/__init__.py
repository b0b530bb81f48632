"""Samples, the knowledge encoder, and its training through the frozen model."""
