"""Which releases of megatron-core this project works with. Needs no megatron to say it."""

from __future__ import annotations

from importlib import metadata

from retro.common.errors import DependencyError

MEGATRON_CORE = ">=0.16.1,!=0.17.*,!=0.18.*,<0.20"
"""As in pyproject.toml; a test holds the two together."""
TESTED = ("0.16.1", "0.19.2")
"""Those that the tests are run with: the newest release for Python 3.11, and the newest one, for 3.12 and later."""

_REFUSED = {
    "0.17": "belongs to a series whose first release loads checkpoints with weights_only=False, so one could run code",
    "0.18": "was never tested here",
}


def installed_release() -> str | None:
    """The version of megatron-core that is installed; None where there is none that pip knows."""
    try:
        return metadata.version("megatron-core")
    except metadata.PackageNotFoundError:
        return None


def why_refused(release: str) -> str | None:
    """Why a release is refused by its name; None where it is not."""
    return _REFUSED.get(".".join(release.split(".")[:2]))


def require_release() -> None:
    """Check the installed release before it is imported.

    Raises:
        DependencyError: It is one that is refused.
    """
    release = installed_release()
    why = None if release is None else why_refused(release)
    if why is not None:
        raise DependencyError("megatron-core", f"release {release} {why}", advice())


def advice() -> str:
    """What to do about a release that does not serve."""
    return f'Run `pip install "megatron-core{MEGATRON_CORE}"`'
