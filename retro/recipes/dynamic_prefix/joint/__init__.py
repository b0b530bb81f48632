"""Retriever and reader together: marginal likelihood, refreshed indexes, penalties."""
