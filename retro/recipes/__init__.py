"""Recipes: what one paper adds to the pipeline, each a folder here or a package of its own; see `base.py`."""
