"""Placeholder."""
def read_scores(folder):
    raise NotImplementedError
