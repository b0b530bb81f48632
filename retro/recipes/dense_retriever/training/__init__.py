"""Objectives, batches, mined negatives, and the training itself."""
