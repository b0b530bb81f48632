"""A dense retriever tuned to the task: pairs, objectives, hard negatives, and how well it finds."""
