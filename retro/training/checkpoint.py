"""Checkpoints of a training run: found, compared and loaded. `checkpoint_writer.py` writes them.

    checkpoints/step_00000200/checkpoint.json    what it is: model shape, step, size and SHA-256 of each file
    checkpoints/step_00000200/*                  megatron-core's sharded checkpoint, of a whole model or of adapters
    checkpoints/step_00000200/tokenizer/         the tokenizer that the model speaks, and its conventions

Where a checkpoint is asked for, a model of another toolkit may be given (`model/convert/external.py`): it is opened as
a checkpoint of step 0. A directory under its final name is complete; one that was cut short still bears its temporary
name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.errors import ArtifactError, ConfigError, TrainingError
from retro.common.files import read_json, sha256_file
from retro.mcore import checkpoint as sharded
from retro.mcore import parallel
from retro.mcore.engine import Engine, sharded_weights
from retro.mcore.lora import is_adapter
from retro.mcore.sharded_tensors import StoredTensors, fill
from retro.model.config import ModelShape
from retro.model.convert import external
from retro.model.convert.external import ExternalModel
from retro.model.convert.source import AddedTokens, GrownWeights, smaller
from retro.model.model import BuildOptions, RetroModel, build_stage
from retro.model.weight_names import weight_sizes
from retro.training.architecture import require_same_architecture
from retro.training.config import LoraConfig, ParallelConfig
from retro.training.layout import require_layout, require_processes
from retro.training.lora_weights import AdapterInfo, BaseInfo, MergedWeights, StoredWeights, UnadaptedWeights
from retro.training.result import CHECKPOINTS, INFO, RESULT, read_result, require_of_its_run

log = logging.getLogger(__name__)

_REMEDY = "Move its directory away, and the newest older one is taken"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says about itself."""

    path: Path
    shape: ModelShape
    step: int
    config: dict[str, Any]
    """Settings under which it was trained."""
    adapters: AdapterInfo | None = None
    """What it says about adapters if it holds them alone; None where it holds a whole model."""
    modules: BaseInfo | None = None
    """Where the network is, if it holds modules beside one that was frozen, and them alone."""
    external: ExternalModel | None = None
    """The model of another toolkit that this is; None for a checkpoint of ours."""

    @property
    def precision(self) -> str:
        """What it was trained in, as far as it says; else float32."""
        return str(self.config.get("train", {}).get("precision", "float32"))

    @property
    def tokenizer(self) -> Path | None:
        """A directory with the tokenizer that it speaks; None where it came without one."""
        if self.external is not None:
            return self.external.tokenizer
        own = self.path / TOKENIZER
        return own if own.is_dir() else None


_NO_CHECKPOINT = (
    "Give a checkpoint, a directory of them, the directory of a stage that trains and has finished, a HuggingFace "
    "folder (config.json and *.safetensors) or a .gguf file"
)
TOKENIZER = "tokenizer"


def is_external(path: Path) -> bool:
    """Whether a path that `find` gave is the folder of an external model."""
    return not (path / INFO).exists() and external.resolve(path) == path


def step_directory(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return directory / f"step_{step:08d}"


def step_of(path: Path) -> int:
    """The step that the name of a checkpoint says."""
    return int(path.name.removeprefix("step_"))


def complete(directory: Path) -> list[Path]:
    """The complete checkpoints below `directory`, oldest first; what was moved to another name is none of them."""
    found = (path.parent for path in directory.glob(f"step_*/{INFO}"))
    return sorted((path for path in found if path.name.removeprefix("step_").isdecimal()), key=step_of)


def holds_one(path: Path) -> bool:
    """Whether `find` would find a checkpoint of ours."""
    return (path / INFO).exists() or bool(complete(path) or complete(path / CHECKPOINTS))


def holds_model(path: Path) -> bool:
    """Whether `find` would find a checkpoint of ours, or a model of another toolkit."""
    return holds_one(path) or external.resolve(path) is not None


def find(path: Path, step: int | None = None) -> Path:
    """The checkpoint that `path` means: one itself, one in a stage directory, or the folder of an external model.

    Args:
        path: A checkpoint, a directory that holds some, or what `external.resolve` takes.
        step: Which of them; None takes the newest.

    Raises:
        ArtifactError: There is none, or none of that step; the steps that are there are named.
        DataError: An external model cannot be used.
    """
    found = [path] if (path / INFO).exists() else complete(path) or complete(path / CHECKPOINTS)
    if not found and (folder := external.resolve(path)) is not None:
        found = [folder]
    if not found:
        raise ArtifactError(path, "holds no complete checkpoint", _NO_CHECKPOINT)
    if step is None:
        return found[-1]
    steps = {_describe(one)[0].step: one for one in found}
    if step not in steps:
        problem = f"holds no checkpoint of step {step}, only of {', '.join(map(str, steps))}"
        raise ArtifactError(path, problem, "Give one of these steps; `train.keep_last` decides how many are kept")
    return steps[step]


def require_size(path: Path, wanted: str | None) -> None:
    """Check that a checkpoint has the size its user expects; None expects none. No weights are read.

    Raises:
        TrainingError: It has another.
    """
    if wanted is None:
        return
    found = _describe(path)[0].shape.model.size
    if wanted != found:
        raise TrainingError(
            f"{path}: is of size {found!r}, not {wanted!r}. Name its own size, or give a checkpoint of the other"
        )


def read_info(path: Path) -> CheckpointInfo:
    """Read what a checkpoint says about itself. Its files are looked at when it is loaded.

    Raises:
        ArtifactError: The description is missing or damaged.
    """
    return _describe(path)[0]


def verify(path: Path) -> None:
    """Compare every file of a checkpoint with its checksum; the processes, once they have met, share the files out.

    Raises:
        ArtifactError: A file is missing, cut short or damaged; on every process.
    """
    _, files = _describe(path)
    rank, ranks = parallel.process()
    own = sorted(files.items())[rank::ranks]
    problem = next(((name, why) for name, known in own if (why := _damage(path / name, known))), None)
    found = next((one for one in parallel.gather_objects(problem) if one is not None), None)
    if found is not None:
        raise ArtifactError(path / found[0], found[1], _REMEDY)


def _damage(file: Path, known: Mapping[str, Any]) -> str | None:
    if not file.exists():
        return "is missing"
    if file.stat().st_size != known["bytes"]:
        return f"has {file.stat().st_size} bytes, needed {known['bytes']}"
    if sha256_file(file) != known["sha256"]:
        return "has other bytes than were written (checksum differs)"
    return None


def _describe(path: Path) -> tuple[CheckpointInfo, dict[str, Any]]:
    """What a checkpoint says about itself, and about its files."""
    if is_external(path):
        model = external.open_external(path)
        origin = {"external": path.name}
        return CheckpointInfo(path=path, shape=model.shape, step=0, config=origin, external=model), {}
    data = read_json(path / INFO, _REMEDY)
    require_of_its_run(path)
    try:
        info = CheckpointInfo(
            path=path,
            shape=ModelShape(**data["shape"]),
            step=data["step"],
            config=data["config"],
            adapters=AdapterInfo(**data["adapters"]) if "adapters" in data else None,
            modules=BaseInfo(**data["modules"]) if "modules" in data else None,
        )
        files = dict(data["files"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(path / INFO, f"lacks {error}", _REMEDY) from None
    except (ConfigError, ValueError) as error:
        raise ArtifactError(path / INFO, f"does not describe a checkpoint ({error})", _REMEDY) from None
    if path.parent.name == CHECKPOINTS and path != step_directory(path.parent, info.step):
        raise ArtifactError(path, f"holds the checkpoint of step {info.step}", "Put each in the folder of its step")
    return info, files


def identity(path: Path) -> str:
    """A name for the weights of a checkpoint, equal for equal runs: where and when it was written has no part in it.

    Taken from the run's result if it finished there, else from the checkpoint's own description.
    """
    if is_external(path):
        return external.open_external(path).fingerprint
    data, run = read_json(path / INFO, "Use an older checkpoint"), path.parent.parent
    if (run / RESULT).exists() and complete(path.parent)[-1:] == [path]:
        result, remedy = read_result(run), f"Delete {run / RESULT} and run the stage again"
        if not isinstance(result.get("weights_sha256"), str):
            raise ArtifactError(run / RESULT, "names no weights_sha256", remedy)
        # The last one may have been moved away, or training may have gone on.
        if result.get("steps") == data["step"]:
            return str(result["weights_sha256"])[:16]
    # Adapters and modules are nothing without what they were trained on.
    base = [data[kind]["base_mark"] for kind in ("adapters", "modules") if kind in data]
    return fingerprint([data["shape"], data["step"], data["config"], *base])


def describe_adapters(lora: LoraConfig, base: Path, checkpoint: Path) -> dict[str, Any]:
    """What `checkpoint.json` says about the adapters of a checkpoint, as plain values."""
    relative = os.path.relpath(base.resolve(), checkpoint.resolve())
    return asdict(AdapterInfo(base=relative, base_mark=checkpoint_fingerprint(base), rank=lora.rank, alpha=lora.alpha))


def describe_modules(base: Path, checkpoint: Path) -> dict[str, Any]:
    """What `checkpoint.json` says of a checkpoint of modules beside a frozen network, as plain values."""
    relative = os.path.relpath(base.resolve(), checkpoint.resolve())
    return asdict(BaseInfo(base=relative, base_mark=checkpoint_fingerprint(base)))


def checkpoint_fingerprint(checkpoint: Path) -> str:
    """A name for the bytes of a checkpoint: its description has the checksums of its files."""
    if is_external(checkpoint):
        return external.open_external(checkpoint).fingerprint
    return fingerprint(read_json(checkpoint / INFO, "Use another checkpoint"))


def base_path(checkpoint: Path, adapters: BaseInfo) -> Path:
    """Where the base of adapters was when they were written, seen from where their checkpoint is now."""
    return Path(os.path.normpath(checkpoint.resolve() / adapters.base))


def find_base(checkpoint: Path, adapters: BaseInfo, given: Path | None = None) -> Path:
    """The checkpoint that adapters, or modules beside a network, belong to.

    Args:
        checkpoint: Theirs.
        adapters: What it says about them.
        given: Where the base is, if it was moved.

    Raises:
        ArtifactError: It is not there, or is another one.
    """
    base = given or base_path(checkpoint, adapters)
    what = "adapters" if isinstance(adapters, AdapterInfo) else "modules"
    if not (base / INFO).exists() and not is_external(base):
        problem = f"has {what} for the checkpoint {base}, and nothing is there"
        remedy = "Put it back" + (", or name its place: `retro merge-lora … --base`" if what == "adapters" else "")
        raise ArtifactError(checkpoint, problem, remedy)
    if checkpoint_fingerprint(base) != adapters.base_mark:
        problem = f"is not the checkpoint that the {what} in {checkpoint} were trained on"
        found = f"its fingerprint is {checkpoint_fingerprint(base)}, theirs is {adapters.base_mark}"
        raise ArtifactError(base, f"{problem} ({found})", "Give the one they were trained on")
    return base


def start_from(engine: Engine[RetroModel], shape: ModelShape, path: Path, added: AddedTokens | None = None) -> None:
    """Start clean from another checkpoint's weights: a GPT for a Retro, or the same architecture.

    Weights that the checkpoint does not have (a GPT has no cross-attention) keep their fresh values.

    Args:
        engine: Of the model to fill.
        shape: That model.
        path: The checkpoint.
        added: What it is, where the model has more tokens.

    Raises:
        TrainingError: The architectures differ; the first differing settings are named with both values. Or adapters
            are to be trained on weights that are not all there.
    """
    info = read_info(path)
    require_same_architecture(path, info.shape, shape if added is None else smaller(shape, added))
    verify(path)
    stored = open_weights(info)
    if added is not None:
        stored = GrownWeights(stored, shape, added.known)
    weights, fresh = _read_weights(engine.weights(), info, stored)
    require_all_saved(engine, path, fresh)
    if fresh:
        log.info(
            "%d tensors are not in %s and are initialized at random, the first is %s", len(fresh), path, min(fresh)
        )
    engine.load_weights(weights)


def require_all_saved(engine: Engine[RetroModel], path: Path, fresh: Sequence[str]) -> None:
    """Check that a checkpoint of adapters will hold whatever is not in the weights that they adapt.

    Args:
        engine: What is trained.
        path: The weights that it starts from.
        fresh: Names of the model's weights that are not there.

    Raises:
        TrainingError: It will not: neither one would be the whole model.
    """
    lacking = [] if engine.saved is None else [name for name in fresh if not engine.saved(name)]
    if lacking:
        raise TrainingError(
            f"{path}: lacks {len(lacking)} tensors of the model, {min(lacking)} the first, and train.lora trains "
            "adapters on a finished model. Train the whole model first, without train.lora, and adapters on what it "
            "becomes; or give a GPT what reads neighbors, by train.lora.where=decoder and train.train_only=retrieval"
        )


def open_weights(info: CheckpointInfo, base: Path | None = None) -> StoredWeights:
    """What a verified checkpoint has; adapters come merged into the weights that they adapt, and modules beside those
    of the network that they were trained on."""
    if info.external is not None:
        return external.ExternalWeights(info.external.source, info.shape)
    if info.modules is not None:
        return UnadaptedWeights(open_base(info, info.modules, base), StoredTensors(info.path))
    return StoredTensors(info.path) if info.adapters is None else _open_merged(info, info.adapters, base)


def require_whole(path: Path) -> None:
    """Check that a checkpoint has the weights of the model that it describes, in their sizes. None are read.

    Raises:
        ArtifactError: It has not.
    """
    info = read_info(path)
    if info.adapters is None:
        _require_its_weights(info, open_weights(info))


def _require_its_weights(info: CheckpointInfo, stored: StoredWeights) -> None:
    """Check, before a model is built, that the weights are those of the model that a checkpoint describes.

    The sizes of stored weights are held against the bytes that are there; so a made-up size costs no memory.
    """
    model = info.shape.model
    if max(model.layers, model.encoder_layers) > len(stored.sizes):
        problem = f"describes a model of {model.layers} layers and has {len(stored.sizes)} tensors"
        raise ArtifactError(info.path, problem, _REMEDY)
    wanted = weight_sizes(info.shape)
    missing = sorted(wanted.keys() - stored.sizes.keys())
    if missing:
        raise ArtifactError(info.path, f"lacks {len(missing)} tensors, {missing[0]} the first", _REMEDY)
    wrong = next((name for name, size in wanted.items() if stored.sizes[name] != size), None)
    if wrong is not None:
        sizes = f"{list(stored.sizes[wrong])} there, {list(wanted[wrong])} in the model that {INFO} describes"
        raise ArtifactError(info.path, f"{wrong} is {sizes}", _REMEDY)


def _read_weights(
    wanted: dict[str, Any], info: CheckpointInfo, stored: StoredWeights
) -> tuple[dict[str, Any], list[str]]:
    """Fill sharded weights, given by group of layers, with what a verified checkpoint has of them.

    Returns:
        The weights, and the names of those that it does not have; new adapters aside.
    """
    known, fresh = {}, []
    for group, tensors in wanted.items():
        known[group] = {
            name: tensor for name, tensor in tensors.items() if getattr(tensor, "key", name) in stored.sizes
        }
        fresh += [name for name in tensors if name not in known[group]]
    sharded.require_sizes(known, stored.sizes, info.path)
    filled = fill(known, stored.read)
    weights = {
        group: {name: filled[group][name] if name in known[group] else tensor.data for name, tensor in tensors.items()}
        for group, tensors in wanted.items()
    }
    # Entries of megatron-core's layers for Transformer Engine hold nothing here.
    return weights, [name for name in fresh if not (name.endswith("_extra_state") or is_adapter(name))]


def _open_merged(info: CheckpointInfo, adapters: AdapterInfo, given: Path | None) -> StoredWeights:
    """Base and adapters as one; the base may have been adapted itself. The base's files are verified."""
    return MergedWeights(open_base(info, adapters, given), StoredTensors(info.path), adapters)


def open_base(info: CheckpointInfo, adapters: BaseInfo, given: Path | None = None) -> StoredWeights:
    """The weights that adapters adapt, their files verified.

    Args:
        info: What the adapters' checkpoint says.
        adapters: What it says about them.
        given: Where the base is, if it was moved.

    Raises:
        ArtifactError: It is not there, is another one, or is damaged.
    """
    base = read_info(find_base(info.path, adapters, given))
    verify(base.path)
    # An external model's vocabulary is padded as the adapted model's is.
    return open_weights(replace(base, shape=info.shape) if base.external else base)


def load_model(path: Path, *, bfloat16: bool = False, base: Path | None = None) -> tuple[RetroModel, CheckpointInfo]:
    """The model of a checkpoint, whole on this process and ready for inference; see `load_stage`."""
    (model,), info = load_stage(path, ParallelConfig(), bfloat16=bfloat16, base=base)
    return model, info


def load_stage(
    path: Path,
    layout: ParallelConfig,
    *,
    bfloat16: bool = False,
    base: Path | None = None,
    sequence_length: int | None = None,
) -> tuple[list[RetroModel], CheckpointInfo]:
    """Build this rank's part of the model of a checkpoint and fill it, ready for inference.

    Adapters come merged into the weights that they adapt, so nothing that uses the model need know of them.

    Args:
        path: A checkpoint, or a stage directory whose newest checkpoint is taken.
        layout: Ranks to spread it over, whatever it was trained on.
        bfloat16: Compute in bfloat16.
        base: Where the checkpoint is that adapters belong to, if it was moved.
        sequence_length: Tokens of a sequence; None: as it says. Another only for rotary positions, which have no table.

    Returns:
        This rank's groups of layers in evaluation mode, and what the checkpoint says.

    Raises:
        ConfigError: The layout does not fit the model or the processes.
        ArtifactError: The checkpoint is damaged.
    """
    info = open_stage(path, layout, sequence_length)
    return build_filled(info, open_weights(info, base), layout, bfloat16=bfloat16), info


def open_stage(path: Path, layout: ParallelConfig, sequence_length: int | None = None) -> CheckpointInfo:
    """What a checkpoint says, once its files are verified and the processes of a layout have met; as `load_stage`."""
    info = read_info(find(path))
    if sequence_length is not None:
        model = info.shape.model.model_copy(update={"sequence_length": sequence_length})
        info = replace(info, shape=info.shape.model_copy(update={"model": model}))
    require_layout(info.shape, layout)
    require_processes(layout, parallel.world_size())
    parallel.start(layout)
    verify(info.path)
    return info


def build_filled(
    info: CheckpointInfo,
    stored: StoredWeights,
    layout: ParallelConfig,
    *,
    bfloat16: bool,
    prepare: Callable[[Sequence[RetroModel]], None] | None = None,
) -> list[RetroModel]:
    """Build this rank's part of a model and fill it, ready for inference.

    Args:
        info: What an opened checkpoint says of the model.
        stored: Its weights.
        layout: Ranks to spread it over.
        bfloat16: Compute in bfloat16.
        prepare: Called with the groups of layers before they are filled.

    Raises:
        ArtifactError: The weights are not those of the model.
    """
    _require_its_weights(info, stored)
    parallel.seed(0)
    chunks = build_stage(info.shape, BuildOptions(bfloat16=bfloat16, layout=layout))
    if prepare is not None:
        prepare(chunks)
    filled, _ = _read_weights(sharded_weights(chunks), info, stored)
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(filled[str(number)])
        chunk.eval()
    return chunks


def refill(chunks: Sequence[RetroModel], stored: StoredWeights, names: Container[str]) -> None:
    """Read some weights of a model that is filled once more, from elsewhere."""
    for number, tensors in sharded_weights(chunks).items():
        wanted = {name: one for name, one in tensors.items() if getattr(one, "key", name) in names}
        chunks[int(number)].load_state_dict(fill(wanted, stored.read), strict=False)
