"""Out of the toolkit: folders that transformers opens."""
