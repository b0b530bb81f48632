"""The teacher: a model that recipes ask for training data. It may be behind an address, in a run, or in a script."""
