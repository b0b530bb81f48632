"""Stage 8: scores and the report."""
