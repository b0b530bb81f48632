"""The one training loop, its checkpoints and its log: shared by every stage that trains."""
