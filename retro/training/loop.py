"""The training loop. Pretraining and tuning hand it a source of samples; it owns steps, evaluation, log, checkpoints.

A run is a function of its settings: sample numbers follow from the step, dropout from (seed, step). So a run that was
killed continues from its last checkpoint with the losses that an unbroken run has.
"""

# Dims: B sequences of a micro batch, S tokens.

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from retro.common.errors import ConfigError, TrainingError
from retro.common.progress import Progress
from retro.mcore import parallel
from retro.mcore.engine import Engine, StepResult, TokenLosses
from retro.mcore.kernels import choose
from retro.model.config import ModelShape
from retro.model.convert.source import AddedTokens
from retro.model.count import count_parameters
from retro.model.model import BuildOptions, RetroModel, build_stage
from retro.model.weight_names import ADDED_MODULE, is_added_module, is_vocabulary
from retro.training import checkpoint, init_from
from retro.training.adapters import adapted_layers
from retro.training.architecture import require_same_architecture
from retro.training.batch import BatchSource
from retro.training.checkpoint_writer import CheckpointWriter
from retro.training.config import LoraConfig, ParallelConfig, TrainConfig
from retro.training.data_loader import DataLoader, MicroBatch
from retro.training.interrupt import first_signal_only
from retro.training.layout import require_batch, require_layout, require_processes
from retro.training.log import TrainingLog, open_boards, read_log
from retro.training.probe import Probe, read_probes
from retro.training.result import RESULT, read_result
from retro.training.resume_rules import log_schedule
from retro.training.trained_weights import (
    TRAINED,
    adapt,
    freeze_all_but,
    freezes_embedding,
    log_share,
    require_modules,
    require_retrieval,
    saved_beside_base,
    train_new_rows_only,
    weight_groups,
)
from retro.training.validation import Validation, mean_loss, token_losses

log = logging.getLogger(__name__)


# What a Result has that differs between two equal runs; it goes to a stage's report, not into its manifest.
RATES = ("seconds", "tokens_per_second", "data_wait_seconds")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished run says about itself."""

    steps: int
    parameters: int
    final_loss: float
    valid_loss: float | None
    weights_sha256: str
    """Over all weights, by name: equal runs, equal digest."""
    seconds: float
    tokens_per_second: float
    data_wait_seconds: float = 0.0
    """How long steps waited for their samples, of `seconds`; a run that waits reads from a disk too slow for it."""
    probes: list[dict[str, float]] = field(default_factory=list)
    """The curve of what `train.probe_every` measured: `step`, losses with real, shuffled and no neighbors, gates."""


def train(
    *,
    out: Path,
    shape: ModelShape,
    config: TrainConfig,
    layout: ParallelConfig,
    source: BatchSource,
    validation: Validation | None,
    start_from: Path | None = None,
    added: AddedTokens | None = None,
    loss: TokenLosses[MicroBatch] = token_losses,
    modules: AddModules | None = None,
    what: str = "pretrain",
    tokenizer: Path | None = None,
    begin: Callable[[], None] = lambda: None,
) -> Result:
    """Train a model, or continue with a run that was stopped.

    Args:
        out: Directory of the run: `log.jsonl` and `checkpoints/` come here.
        shape: The model.
        config: Steps, batch, optimizer.
        layout: Processes.
        source: Gives training samples by number.
        validation: Evaluated every `evaluate_every` steps; None does not evaluate.
        start_from: A checkpoint whose weights to start from, optimizer clean.
        added: What that is, where the model has more tokens.
        loss: From a group of layers and a micro batch to the losses of labels and their mask, as `token_losses`; for
            validation too.
        modules: Gives further modules to train with the network, see `add_modules`.
        what: The stage, for progress lines.
        tokenizer: The directory of the model's tokenizer, which goes into each checkpoint.
        begin: Called on every rank once all is known to fit, before the first step.

    Raises:
        TrainingError: The loss is not finite; nothing is saved after it.
        ConfigError: The batch does not fit the processes, adapters have nothing to adapt, or probes nothing to read.
    """
    checkpoints = out / "checkpoints"
    base = _base_of(config, checkpoints, start_from)
    origin = base or start_from
    if origin is not None and (base is not None or not checkpoint.complete(checkpoints)):
        # Before memory is taken for a model of that size: the sizes of a folder's config may be made up.
        init_from.require_weights(shape, origin, added)
    known = None if added is None else added.known
    engine = build_engine(shape, config, layout, known, modules, frozen_base=base is not None)
    probe = Probe(shape, config, validation)
    step = _resume_or_start(engine, shape, config, checkpoints, origin, added)
    begin()
    started = time.monotonic()
    result = StepResult(loss=math.nan, tokens=0, grad_norm=math.nan, lr=0.0)
    valid_loss = _last_valid_loss(out, step)
    boards = open_boards(config, out, step, what) if parallel.is_main() else []
    speed, waited_s, learned = _Speed(), 0.0, False
    with (
        first_signal_only() as stop_again,
        TrainingLog(_log_path(out), resumed_step=step, boards=boards) as lines,
        Progress(config.steps, what=what, unit="steps", done=step) as bar,
        CheckpointWriter(engine, shape, config, checkpoints, base, tokenizer) as saver,
        DataLoader(source, shape, engine.chunks, config.micro_batch) as feed,
    ):
        while step < config.steps:
            stop_again()
            step += 1
            result = _one_step(engine, feed, config, step, loss)
            learned = learned or (result.grad_norm > 0 and result.lr > 0)
            tokens_per_second = speed.tick(feed.tokens * parallel.data_parallel()[1])
            if step % config.log_every == 0 or step in (1, config.steps):
                lines.write(
                    step=step, loss=result.loss, lr=result.lr, grad_norm=result.grad_norm,
                    tokens_per_second=round(tokens_per_second), samples=step * config.global_batch,
                    data_wait_s=round(feed.waited_s - waited_s, 6),
                )  # fmt: skip
                waited_s = feed.waited_s
            if validation is not None and (step % config.evaluate_every == 0 or step == config.steps):
                valid_loss, _ = mean_loss(
                    engine.wrapped, shape, validation, config.evaluate_samples, config.micro_batch, loss=loss
                )
                lines.write(step=step, valid_loss=valid_loss)
            if probe.due(step):
                lines.write(step=step, **probe.measure(engine, step))
            if step % config.save_every == 0 or step == config.steps:
                saver.save(step, learned=learned)
                learned = False
            saver.poll()
            bar.advance(note=f"loss {result.loss:.3f}, lr {result.lr:.1e}, {tokens_per_second:.0f} tokens/s")
    seconds = time.monotonic() - started
    return Result(
        steps=step,
        parameters=count_parameters(shape).total,
        final_loss=_final_loss(out, result),
        valid_loss=valid_loss,
        weights_sha256=weights_digest(engine.chunks),
        seconds=seconds,
        tokens_per_second=feed.tokens * parallel.data_parallel()[1] / max(seconds, 1e-9),
        data_wait_seconds=round(feed.waited_s, 3),
        probes=read_probes(out / "log.jsonl"),
    )


def finished_result(out: Path, steps: int) -> Result | None:
    """What a run of that many steps said about itself when it finished in `out`; None if none did.

    Raises:
        ArtifactError: The file is damaged.
    """
    if not (out / RESULT).exists():
        return None
    result = Result(**read_result(out))
    return result if result.steps == steps else None


def build_engine(
    shape: ModelShape,
    config: TrainConfig,
    layout: ParallelConfig,
    known_tokens: int | None = None,
    modules: AddModules | None = None,
    *,
    frozen_base: bool = False,
) -> Engine[RetroModel]:
    """Form the groups, build this rank's layers and their optimizer.

    Args:
        shape: The model.
        config: Which of its weights are trained, and how.
        layout: Processes.
        known_tokens: Tokens whose rows of the embedding are those of the model that it starts from; later rows are
            trained whatever else is frozen. None: no token is new.
        modules: Gives further modules; they are trained whatever else is frozen.
        frozen_base: Whether a checkpoint holds the network that they are trained beside, so that theirs need not.

    Raises:
        ConfigError: The model, the batch and the processes do not fit together.
    """
    require_layout(shape, layout)
    if config.train_only == "retrieval":
        require_retrieval(shape)
    if config.lora is not None:
        adapted_layers(shape, config.lora)
    require_processes(layout, parallel.world_size())
    ranks = parallel.world_size() // layout.model_ranks
    require_batch(layout, global_batch=config.global_batch, micro_batch=config.micro_batch, ranks=ranks)
    parallel.start(layout)
    parallel.seed(config.seed)
    bfloat16 = config.bfloat16
    log.info("built of %s", choose(config.layers, bfloat16=bfloat16).name)
    options = BuildOptions(bfloat16=bfloat16, layout=layout, layers=config.layers, recompute=config.recompute)
    chunks = build_stage(shape, options)
    if modules is not None:
        add_modules(chunks, shape, modules)
        require_modules(config, chunks)
    elif config.train_only == "modules":
        raise ConfigError("train.train_only", "modules", "needs a recipe that gives modules to train")
    elif config.retrieval_rates.modules:
        given = list(config.retrieval_rates.modules)
        raise ConfigError("train.retrieval_rates.modules", given, "needs a recipe that puts modules beside the network")
    handed_on = config.recompute != "none" or layout.pipeline > 1
    new_tokens = known_tokens is not None
    trained = saved_beside_base(config, new_tokens=new_tokens, frozen_base=frozen_base)
    if config.lora is not None and trained is not None:
        adapt(chunks, shape, config.lora, config.seed, trained=trained, gradient_from_the_start=handed_on)
        log_share(shape, config)
    elif config.train_only != "all":
        kept = TRAINED[config.train_only]
        for chunk in chunks:
            freeze_all_but(
                chunk,
                lambda name: kept(name) or is_added_module(name) or (new_tokens and is_vocabulary(name)),
                gradient_from_the_start=handed_on,
            )
    if known_tokens is not None and freezes_embedding(config):
        for chunk in chunks:
            train_new_rows_only(chunk, known_tokens)
    return Engine(
        chunks,
        config,
        distributed_optimizer=layout.distributed_optimizer,
        saved=trained,
        groups=weight_groups(config, new_tokens=new_tokens),
    )


AddModules = Callable[[RetroModel, ModelShape], Mapping[str, nn.Module]]
"""From this rank's group of layers to the modules that it holds beside them, by name. In the loss they are attributes
of the group of layers, `added_<name>`. Each tensor parallel rank holds a whole module; a rank may hold none."""


def add_modules(chunks: Sequence[RetroModel], shape: ModelShape, modules: AddModules) -> None:
    """Add modules to a network, before its optimizer is built; checkpoints hold them from then on."""
    for chunk in chunks:
        for name, module in modules(chunk, shape).items():
            chunk.add_module(f"{ADDED_MODULE}{name}", module.to(next(chunk.parameters())))


def weights_digest(chunks: Sequence[nn.Module]) -> str:
    """SHA-256 over the weights of all ranks that hold one copy of the model, in the order of their names.

    Equal for equal runs of one layout.
    """
    digest = hashlib.sha256()
    for chunk in chunks:
        for name, parameter in sorted(chunk.named_parameters()):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    found = parallel.gather_objects((parallel.model_parallel_place(), digest.hexdigest()))
    # Data parallel ranks hold equal weights. One process has one digest, its own.
    of_places = dict(found)
    if len(of_places) == 1:
        return digest.hexdigest()
    return hashlib.sha256("".join(of_places[place] for place in sorted(of_places)).encode()).hexdigest()


def _one_step(
    engine: Engine[RetroModel],
    feed: DataLoader,
    config: TrainConfig,
    step: int,
    loss: TokenLosses[MicroBatch] = token_losses,
) -> StepResult:
    # Dropout is drawn again from (seed, step): no random state needs saving, and every layout resumes alike.
    parallel.seed(config.seed + step)
    work = feed.work(_numbers(config, step))
    if step < config.steps:
        feed.expect(_numbers(config, step + 1))
    result = engine.step(work, loss)
    if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
        raise TrainingError(
            f"step {step}: the loss is {result.loss} and the gradient norm {result.grad_norm} at learning rate "
            f"{result.lr:.2e}; needed finite numbers. The last checkpoint is kept: lower train.lr, lengthen "
            "train.warmup_steps or set train.clip, and run again"
        )
    return result


def _numbers(config: TrainConfig, step: int) -> NDArray[np.int64]:
    """Of the samples that this data parallel rank takes in a step."""
    rank, ranks = parallel.data_parallel()
    first = (step - 1) * config.global_batch
    return np.arange(first, first + config.global_batch, dtype=np.int64)[rank::ranks]


def _base_of(config: TrainConfig, checkpoints: Path, start_from: Path | None) -> Path | None:
    """The checkpoint that holds what is frozen, so that those of this run need not; None: they hold all."""
    if config.lora is not None:
        return _base_of_adapters(config.lora, checkpoints, start_from)
    if config.train_only != "modules" or start_from is None or not checkpoint.holds_model(start_from):
        return None
    base, found = checkpoint.find(start_from), checkpoint.complete(checkpoints)
    info = checkpoint.read_info(found[-1]) if found else None
    return base if info is None or info.modules is None else checkpoint.find_base(info.path, info.modules, base)


def _base_of_adapters(lora: LoraConfig, checkpoints: Path, start_from: Path | None) -> Path:
    """The checkpoint to adapt: of a stopped run the one that it adapted."""
    found = checkpoint.complete(checkpoints)
    info = checkpoint.read_info(found[-1]) if found else None
    if info is not None and info.adapters is not None:
        return checkpoint.find_base(info.path, info.adapters)
    if start_from is None or not checkpoint.holds_model(start_from):
        given = "none is given" if start_from is None else f"{start_from} holds none"
        need = (
            f"needs a checkpoint or a HuggingFace folder to adapt (start_from), and {given}; train a whole model first"
        )
        raise ConfigError("train.lora", lora.model_dump(), need)
    return checkpoint.find(start_from)


def _resume_or_start(
    engine: Engine[RetroModel],
    shape: ModelShape,
    config: TrainConfig,
    checkpoints: Path,
    start_from: Path | None,
    added: AddedTokens | None,
) -> int:
    found = checkpoint.complete(checkpoints)
    # A checkpoint of adapters does not hold what they adapt.
    if start_from is not None and (not found or engine.saved is not None):
        init_from.start_from(engine, shape, start_from, added)
    if not found:
        return 0
    info = checkpoint.read_info(found[-1])
    require_same_architecture(info.path, info.shape, shape)
    checkpoint.verify(found[-1])
    engine.resume(found[-1])
    log.info("resuming from step %d of %s", info.step, found[-1])
    log_schedule(config, info.config.get("train", {}), info.step)
    return info.step


def _log_path(out: Path) -> Path | None:
    # Other ranks' lines would be the same.
    return out / "log.jsonl" if parallel.is_main() else None


def _last_valid_loss(out: Path, step: int) -> float | None:
    found = [
        line["valid_loss"] for line in read_log(out / "log.jsonl") if "valid_loss" in line and line["step"] <= step
    ]
    return found[-1] if found else None


def _final_loss(out: Path, result: StepResult) -> float:
    if math.isfinite(result.loss):
        return result.loss
    losses = [line["loss"] for line in read_log(out / "log.jsonl") if "loss" in line]
    return float(losses[-1]) if losses else math.nan


class _Speed:
    """Tokens per second over the last step, smoothed."""

    def __init__(self) -> None:
        self.last, self.tokens, self.rate = time.monotonic(), 0, 0.0

    def tick(self, tokens: int) -> float:
        """After a step: `tokens` of all steps so far."""
        now = time.monotonic()
        current = (tokens - self.tokens) / max(now - self.last, 1e-9)
        self.last, self.tokens = now, tokens
        self.rate = current if self.rate == 0.0 else 0.9 * self.rate + 0.1 * current
        return self.rate
