"""placeholder while being written."""


def apply_cpu_adapter() -> None:
    """Do nothing yet."""
