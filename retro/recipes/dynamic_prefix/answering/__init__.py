"""Stored documents, answers and the server."""
