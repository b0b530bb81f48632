"""A frozen language model that reads documents as keys and values of a prefix, made by a trained encoder."""
