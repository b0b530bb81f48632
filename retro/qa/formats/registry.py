"""The formats that can be converted, by the name that the user types."""

from __future__ import annotations

from retro.common.registry import Registry, registered_by_instance
from retro.qa.formats.item import Format

_BUILT_IN = (
    *("alpaca", "dolly", "sharegpt", "oasst", "chat"),
    *("squad", "nq_open", "triviaqa", "hotpotqa", "boolq"),
)

FORMATS: Registry[Format] = Registry(
    "retro.formats",
    "a known format",
    {name: f"retro.qa.formats.built_in:{name}" for name in _BUILT_IN},
    registered_by_instance(Format, "a Format of retro.qa.formats.item"),
)
"""Every format, for `retro sft convert`."""


def find_format(name: str) -> Format:
    """The format of that name, in any case.

    Raises:
        ConfigError: There is none; the nearest is named, or all are.
        DependencyError: Another package brings it, and it cannot be loaded.
    """
    wanted = name.lower().replace("-", "_")
    return FORMATS.find(name if name in FORMATS else wanted, "FORMAT")
