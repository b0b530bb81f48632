"""What every package uses: configuration, errors, logs, artifacts, block work, registries. Imports no other package."""
