"""BM25: an index of the words of the database's chunks, beside or instead of the one of vectors."""
