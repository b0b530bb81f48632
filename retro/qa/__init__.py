"""What tuning, generation, serving and evaluation share: questions, prompts, samples, tasks and metrics."""
