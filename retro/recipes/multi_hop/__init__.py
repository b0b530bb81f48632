"""Multi-hop questions by decomposition: data, its generation, tuning, and answering one sub-question at a time."""
