"""What every stage leans on: configs, errors, logs, artifacts, blocks, tokenizers. Knows no stage."""
