"""The parts of a model that answers, as the settings want them: checkpoint, decoder, prompt texts, end tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retro.common.errors import ConfigError
from retro.common.precision import PrecisionChoice, choose
from retro.generate.adapter_check import probe, reason, require_applied
from retro.generate.config import GenerateConfig
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.request import Decoder
from retro.mcore import parallel
from retro.mcore.inference import for_inference, require_float16_weights
from retro.qa.chat_prompts import STYLE, chat_of, has_chat
from retro.qa.prompt_texts import PromptTexts, load_prompts
from retro.qa.prompts import require_template
from retro.qa.task import Task
from retro.tokenizers.tokenizer import Tokenizer, conventions_of, load_tokenizer
from retro.training import checkpoint
from retro.training.config import ParallelConfig
from retro.training.loop import AddModules
from retro.training.result import of_stage
from retro.training.separate_adapters import OWN, SeparateStage, load_separate

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """How adapters are applied."""

    separate: bool = False
    """Keep the checkpoint's own apart from the weights, in place of merging them."""
    allow_unchanged: bool = False
    """Warn of adapters that change nothing, in place of refusing them."""
    others: Mapping[str, checkpoint.CheckpointInfo] = field(default_factory=dict)
    """Adapters on the checkpoint that a request can choose, by name; kept apart."""


def open_decoder(
    checkpoint: Path,
    layout: ParallelConfig,
    end: int | Sequence[int],
    *,
    bfloat16: bool = False,
    float16_weights: bool = False,
    sequence_length: int | None = None,
    options: AdapterOptions | None = None,
    modules: AddModules | None = None,
) -> Decoder:
    """The model of a checkpoint, ready to continue from prompts. Adapters are verified to change what it computes.

    Args:
        checkpoint: One, or a stage directory whose newest is taken.
        layout: Ranks that share the model, whatever it was trained on. All of them make the same calls. What spreads
            a batch or the work of a training step has no use here: `sequence` and `distributed_optimizer` are ignored.
        end: The id that ends an answer, or all of those that do.
        bfloat16: Compute in bfloat16.
        float16_weights: Compute in float32 from weights in float16; `with_choice` has checked that this can be had.
        sequence_length: Tokens of a sequence, see `load_stage`; None: as the checkpoint says.
        options: How adapters are applied, and which others are chosen from; None: the checkpoint's own are merged.
        modules: Gives the further modules that the checkpoint was trained with; None: none of them are loaded.

    Raises:
        ConfigError: The layout does not fit the model or the processes, has stages that take turns, or leaves
            processes over for other copies.
        ArtifactError: The checkpoint is missing or damaged, or adapters change nothing.
    """
    layout, options = _for_decoding(layout), options or AdapterOptions()
    stage = load_separate(
        checkpoint, layout, bfloat16=bfloat16, sequence_length=sequence_length, others=options.others, modules=modules
    )
    (model,) = stage.chunks
    decoder = CachedDecoder(model, end, choice=stage.choice)
    verify_adapters(decoder, stage, options, bfloat16=bfloat16)
    for_inference(model, float16_weights=float16_weights)
    log.info("%s: opened for decoding, step %d", stage.info.path, stage.info.step)
    return decoder


def verify_adapters(decoder: CachedDecoder, stage: SeparateStage, options: AdapterOptions, *, bfloat16: bool) -> None:
    """Check that each adapter of a model changes what it computes, before and after its own are merged.

    Raises:
        ArtifactError: One changes nothing.
    """
    choice, own = stage.choice, stage.info.path
    if not choice.names:
        return
    with choice.off():
        base_TV = probe(decoder)
    allowed = options.allow_unchanged
    for name in choice.names:
        path = own if name == OWN else options.others[name].path
        choice.use(name)
        why = reason(decoder.model, choice.columns or slice(0))
        require_applied(path, probe(decoder, name), base_TV, why, allow_unchanged=allowed)
    if choice.names == (OWN,) and not options.separate:
        stage.merge()
        decoder.choice = None
        why = "in bfloat16 the sum is rounded to the base's weights: generate.separate_adapters=true keeps them apart"
        why = why if bfloat16 else "they were not added to the weights"
        require_applied(own, probe(decoder), base_TV, why, allow_unchanged=allowed)


def _for_decoding(layout: ParallelConfig) -> ParallelConfig:
    if layout.virtual_pipeline > 1:
        need = "needs 1 while generating: a token goes through the stages once, so they cannot take turns"
        raise ConfigError("parallel.virtual_pipeline", layout.virtual_pipeline, need)
    copies, rest = divmod(parallel.world_size(), layout.model_ranks)
    if copies > 1 and not rest:
        need = (
            f"leaves {copies} copies of the model, needs 1 while generating. Start {layout.model_ranks} processes, or "
            "have several runs answer slices of the questions (generate.start and generate.count)"
        )
        raise ConfigError("parallel.tensor x parallel.pipeline", layout.model_ranks, need)
    return layout.model_copy(update={"sequence": False, "distributed_optimizer": False})


def find_checkpoint(config: GenerateConfig, path: Path) -> checkpoint.CheckpointInfo:
    """The checkpoint that answers.

    Args:
        config: Its step, and the size that it must have.
        path: A checkpoint, a directory of them, a finished stage that trains, or a model of another toolkit.

    Raises:
        ArtifactError: There is none, or none of that step.
        TrainingError: It has another size.
    """
    found = checkpoint.find(of_stage(path), config.step)
    checkpoint.require_size(found, config.size)
    return checkpoint.read_info(found)


def for_model(config: GenerateConfig, info: checkpoint.CheckpointInfo) -> GenerateConfig:
    """A GPT has no encoder: passages reach it through the prompt alone.

    Raises:
        ConfigError: Only an encoder can read what is wanted, or a chunk is shorter than what is between two searches.
    """
    encoder = config.encoder and info.shape.model.retrieval
    if "live_retrieval" in config.settings and not encoder:
        need = "needs an encoder that reads what is found: a Retro, and generate.encoder=true"
        raise ConfigError("generate.settings", "live_retrieval", need)
    interval, most = config.retrieval_interval, info.shape.chunk_length
    if interval is not None and interval > most:
        raise ConfigError("generate.retrieval_interval", interval, f"needs 1 to {most}, the tokens of a chunk")
    _warn_of_more_passages(config, info, encoder=encoder)
    return config.model_copy(update={"encoder": encoder})


def _warn_of_more_passages(config: GenerateConfig, info: checkpoint.CheckpointInfo, *, encoder: bool) -> None:
    trained, wanted = info.shape.model.neighbors, config.passages
    if encoder and wanted > trained:
        log.warning(
            "generate.passages = %d: the model was trained to read %d; answers may get worse, and its encoder "
            "reads up to %d tokens for each chunk",
            wanted,
            trained,
            wanted * info.shape.retrieved_length,
        )


def sequence_length(config: GenerateConfig, info: checkpoint.CheckpointInfo) -> int | None:
    """Tokens of a sequence that the model is to be opened for; None: as its checkpoint says.

    Raises:
        ConfigError: More than the folder that the weights come from was made for, or its positions are in a table.
    """
    wanted, model = config.sequence_length, info.shape.model
    if wanted == model.sequence_length or (wanted is None and info.external is None):
        return None
    reported = (
        None if info.tokenizer is None else conventions_of(load_tokenizer(info.tokenizer)).max_position_embeddings
    )
    most = max(model.sequence_length, reported or 0)
    if wanted is None:
        if most > model.sequence_length and model.positions == "rope":
            what = "%s: opened for %s of the %s tokens that it was made for; generate.sequence_length takes more"
            log.info(what, info.path, f"{model.sequence_length:,}", f"{most:,}")
        return None
    if model.positions != "rope":
        need = f"needs to be absent or {model.sequence_length}: the model's positions are learned, not rotary"
        raise ConfigError("generate.sequence_length", wanted, need)
    if wanted > most:
        need = f"needs at most {most}, the tokens that {info.path} was made for"
        raise ConfigError("generate.sequence_length", wanted, need)
    return wanted


def prompt_texts(config: GenerateConfig, task: Task) -> PromptTexts:
    """The texts that questions of a task are asked with.

    Raises:
        ConfigError: They have no such kind of answer, or no such template.
        DataError: The user's file of them is missing or broken.
    """
    texts = load_prompts(config.prompts)
    texts.rule_of_kind(task.kind, f"{task.name}.kind")
    require_template("generate.template", config.template, texts)
    return texts


def with_choice(config: GenerateConfig, begun: str | None = None) -> tuple[GenerateConfig, PrecisionChoice]:
    """The config with the precision that the first process chooses, and tells in its log, in place of `auto`.

    Args:
        config: As it was given.
        begun: What answers were begun in, if any were.

    Raises:
        ConfigError: That cannot be computed here.
    """
    choice = parallel.from_first(choose(config.precision, begun=begun))
    if choice.precision == "float16_weights":
        require_float16_weights("generate.precision", parallel.world_size())
    if parallel.rank() == 0:
        choice.tell("generate.precision")
    return config.model_copy(update={"precision": choice.precision}), choice


def end_tokens(tokenizer: Tokenizer, config: GenerateConfig) -> tuple[int, ...]:
    """All tokens at which an answer ends: that of a document, those that the tokenizer's folder names, and in style
    `chat` the one with which the chat template ends a turn.

    Raises:
        ConfigError: Style `chat` is wanted, and there is no chat template.
        DataError: It is not a template.
    """
    known = conventions_of(tokenizer)
    if config.style == STYLE:
        return tuple(dict.fromkeys((tokenizer.eod, *known.ends, chat_of(tokenizer, "generate.style").turn_end)))
    if has_chat(tokenizer) and "style" not in config.model_fields_set:
        log.info("the tokenizer has a chat template; generate.style=chat asks with it, now it is %s", config.style)
    return tuple(dict.fromkeys((tokenizer.eod, *known.ends)))


def conventions_identity(tokenizer: Tokenizer, config: GenerateConfig) -> dict[str, str]:
    """What the tokenizer's folder says, where it shapes the answers; nothing of a tokenizer of one's own."""
    known = conventions_of(tokenizer)
    shapes = config.style == STYLE or known.prefix or set(known.ends) - {tokenizer.eod}
    return {"conventions": known.identity} if shapes else {}
