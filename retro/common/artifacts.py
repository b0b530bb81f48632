"""Files that survive a kill: atomic writes, and a manifest that is written last.

A stage directory is complete when its `manifest.json` exists. The manifest holds the stage's config, the
fingerprints of the artifacts it was made from, its counts, and size and SHA-256 of every file that belongs to it;
it holds no times, so a stopped and resumed stage leaves the same bytes as an unbroken one. Rates and seconds go to
`report.json` beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from retro.common.checksum_cache import known_sha256
from retro.common.errors import ArtifactError
from retro.common.files import read_json, sha256_file, write_json
from retro.common.input_files import is_below, reason, require_regular
from retro.common.json_files import Count

MANIFEST = "manifest.json"
REPORT = "report.json"


def fingerprint(data: object) -> str:
    """A 16-digit name for any JSON-able value: equal values, equal names."""
    canonical = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class FileRecord(TypedDict):
    """What is recorded of a file, so that each of its bytes can be checked."""

    bytes: Count
    sha256: str


class ManifestData(TypedDict):
    """What a manifest.json holds at least."""

    stage: str
    config: dict[str, Any]
    parents: dict[str, str]
    counts: dict[str, Any]
    files: dict[str, FileRecord]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished stage says about itself."""

    stage: str
    """The stage's name, as the user types it."""
    config: dict[str, Any]
    """The settings that shaped the artifact, defaults filled in."""
    parents: dict[str, str]
    """Fingerprint of each artifact this one was made from, by stage name."""
    counts: dict[str, Any] = field(default_factory=dict)
    """What is inside: documents, chunks, tokens …"""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Size in bytes and SHA-256 of each file, by path relative to the stage directory."""

    @property
    def fingerprint(self) -> str:
        """The artifact's name, from its config, its parents and its bytes."""
        return fingerprint(asdict(self))


def describe_files(directory: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of `names` below `directory`."""
    return {
        name: {"bytes": (directory / name).stat().st_size, "sha256": sha256_file(directory / name)}
        for name in sorted(names)
    }


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Write the manifest. Call this last: its presence is what makes the stage complete."""
    write_json(directory / MANIFEST, asdict(manifest) | {"fingerprint": manifest.fingerprint})
    return manifest


def read_manifest(directory: Path, stage: str, *, remedy: str | None = None) -> Manifest:
    """Read the manifest of a finished stage, and check every file of it against size and SHA-256.

    A file is read once, unless it changes: that it was, and when, is remembered beside it, so that opening an artifact
    of terabytes again costs one stat per file. Bytes that change without a write are for `retro verify` to find.

    Args:
        directory: Where the artifact is.
        stage: The stage that must have made it.
        remedy: What to do about damage, where that is not to run the stage with --redo.

    Raises:
        ArtifactError: The stage did not finish, is another stage, or one of its files is missing, cut short or damaged.
    """
    path = directory / MANIFEST
    if not is_complete(directory):
        raise ArtifactError(path, "is missing", f"Run `{command_of(stage)}` first")
    again = remedy or f"Run `{command_of(stage)}` with --redo"
    manifest = parse_manifest(path, again, stage)
    for name, known in manifest.files.items():
        _require_bytes(directory / name, known, again)
    return manifest


def parse_manifest(path: Path, remedy: str, stage: str | None = None) -> Manifest:
    """What a manifest says, whatever has become of its files.

    Args:
        path: The manifest.
        remedy: What to do about damage.
        stage: The stage that must have written it; None: any.

    Raises:
        ArtifactError: It is damaged, was edited, or is another stage's.
    """
    data = read_json(path, remedy, ManifestData)
    recorded = data.pop("fingerprint")
    try:
        manifest = Manifest(**data)
    except TypeError as error:
        raise ArtifactError(path, f"is not a manifest ({error})", remedy) from None
    for name in manifest.files:
        if not is_below(name):
            raise ArtifactError(path, f"names the file {name!r}, which is not below its folder", remedy)
    if manifest.fingerprint != recorded:
        raise ArtifactError(path, "was edited after it was written", remedy)
    if stage not in (None, manifest.stage):
        raise ArtifactError(path, f"belongs to stage {manifest.stage!r}, not {stage!r}", "Give the right directory")
    return manifest


def wrong_bytes(file: Path, known: Mapping[str, Any]) -> str:
    """What is wrong with a file of which `describe_files` said `known`; empty if nothing."""
    try:
        size = file.stat().st_size
        require_regular(file, "")
        if size != known["bytes"]:
            return f"has {size} bytes, its manifest says {known['bytes']}"
        found = known_sha256(file)
    except FileNotFoundError:
        return "is missing"
    except ArtifactError as error:
        return error.problem
    except OSError as error:
        return f"cannot be read ({reason(error)})"
    if found != known["sha256"]:
        return f"has SHA-256 {found[:12]}…, its manifest says {known['sha256'][:12]}…: bytes changed on disk"
    return ""


def _require_bytes(file: Path, known: Mapping[str, Any], remedy: str) -> None:
    if problem := wrong_bytes(file, known):
        raise ArtifactError(file, problem, remedy)


def require_file(directory: Path, manifest: Manifest, name: str, remedy: str) -> Path:
    """Check a file of an artifact, right before something reads it that trusts its bytes; gives its path.

    Costs one stat where the file is as it was when this process last checked it.

    Raises:
        ArtifactError: The artifact has no such file, or it is missing, cut short or damaged.
    """
    if name not in manifest.files:
        raise ArtifactError(directory / name, f"is not among the files of the {manifest.stage} here", remedy)
    _require_bytes(directory / name, manifest.files[name], remedy)
    return directory / name


def is_complete(directory: Path) -> bool:
    """Whether a stage directory holds a manifest, be it one that cannot be read: that is reported when it is read."""
    return os.path.lexists(directory / MANIFEST)


def command_of(stage: str, config: str = "") -> str:
    """The command that makes a stage, or a step of a recipe.

    Args:
        stage: As manifests name it: `sft`, `self_rag.critic`.
        config: How the user names the run's settings, where that is known.
    """
    name, _, step = stage.partition(".")
    return f"retro recipe {name} run {config or 'CONFIG'} {step}" if step else f"retro {name} {config}".rstrip()


def require_parent(directory: Path, child: Manifest, stage: str, parent: Manifest) -> None:
    """Check that the artifact in `directory` was made from `parent`.

    Raises:
        ArtifactError: It was made from another one; both are named, and the stage to rerun.
    """
    recorded = child.parents.get(stage)
    if recorded != parent.fingerprint:
        raise ArtifactError(
            directory / MANIFEST,
            f"was made from {stage} {recorded}, but the {stage} here is {parent.fingerprint}",
            f"Run `{command_of(child.stage)}` again (add --redo), or point to the {stage} it was made from",
        )


Compared = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From a stage's settings to those that decide what it makes."""


def require_same_config(
    directory: Path, made: Manifest, wanted: Mapping[str, Any], *, compared: Compared = dict
) -> None:
    """Check that a finished stage was made under the settings asked for now, as far as these are `compared`.

    Raises:
        ArtifactError: They differ; the first differing settings are named with both values.
    """
    changed = differences(compared(made.config), compared(wanted))
    if changed:
        raise ArtifactError(
            directory / MANIFEST,
            f"was made under other settings: {'; '.join(changed[:3])}",
            f"Use another run_dir, or add --redo to run `{command_of(made.stage)}` and what follows it again",
        )


# `best_first` was the only order of passages.
_OFF: tuple[Any, ...] = (None, False, 0, "", "auto", "best_first", [], {})


def differences(made: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each setting that differs, with both values, by its dotted name.

    A `precision` that is auto now asks for whatever it was begun in, and differs from nothing. Nor does a setting that
    an older manifest does not have, where it is off or auto now: there was nothing else then.
    """
    found = []
    for key in sorted(set(made) | set(wanted)):
        name = f"{prefix}{key}"
        before, now = made.get(key), wanted.get(key)
        as_before = (key == "precision" and now == "auto") or (before is None and now in _OFF)
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, f"{name}.")
        elif _at_home(before) != _at_home(now) and not as_before:
            found.append(f"{name} was {before!r}, now {now!r}")
    return found


def _at_home(value: Any) -> Any:
    """A setting with `~` of its paths filled in, as older manifests do not have it."""
    if isinstance(value, list):
        return [_at_home(one) for one in value]
    if isinstance(value, dict):
        return {key: _at_home(one) for key, one in value.items()}
    is_home = isinstance(value, str) and value.startswith("~")
    return os.path.expanduser(value) if is_home else value  # noqa: PTH111 - no path is made of what may be a text
