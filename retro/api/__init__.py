"""The Python API: a run and what it made, passages for texts, and answers; see `docs/api.md`."""
