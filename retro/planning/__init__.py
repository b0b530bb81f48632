"""What a run or a database needs, by arithmetic: weights, memory, FLOPs, time, disk. No torch here."""
