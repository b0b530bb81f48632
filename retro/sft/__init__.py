"""Stage 6: instruction tuning."""
