"""Knowledge conflict: what a model answers from memory, and what it makes of passages that agree or contradict it."""
