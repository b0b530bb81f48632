"""lm-evaluation-harness on a Retro model."""
