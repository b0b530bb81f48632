"""A database that changes: documents are added, removed and replaced without building anything again."""
