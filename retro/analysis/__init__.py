"""What a run's data says: leakage, neighbors, samples."""
