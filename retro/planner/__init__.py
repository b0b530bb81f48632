"""What a run needs, by arithmetic alone: weights, memory, FLOPs, time. docs/plan.md works it by hand. No torch here."""
