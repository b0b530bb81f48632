"""Settings of instruction tuning on the data side: which questions, in what mixture, in what prompt."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import ConfigError, DataError, require
from retro.common.json_files import read_text
from retro.common.yaml_files import read_yaml
from retro.qa.question import PassageOrder
from retro.tokenizers.conventions import AddSpecialTokens
from retro.training.config import TrainConfig


class PublishedSet(StageConfig):
    """What a set was in the published run; what a set of one's own under the same name is compared with."""

    samples: PositiveInt
    """Samples drawn from it."""

    epochs: float = Field(gt=0.0005)
    """How often that went through it, to three decimals: so its size is known to that precision."""

    def sizes(self) -> tuple[int, int]:
        """The least and the greatest number of questions that it can have had."""
        return math.floor(self.samples / (self.epochs + 0.0005)), math.ceil(self.samples / (self.epochs - 0.0005))


class SetConfig(StageConfig):
    """One question set of a blend."""

    name: str = Field(min_length=1)
    """The set's name. Without `path` its files are `<data>/<name>/<name>_QA_train.json` and
    `_QA_dev.json`."""

    weight: PositiveFloat = 1.0
    """Share of the training samples, relative to the other sets' weights."""

    path: Path | None = None
    """A training file (.json or .jsonl) anywhere, instead of the named folder; relative to `data` if that is
    given."""

    dev: Path | None = None
    """The validation file that goes with `path`."""

    from_corpus: bool = False
    """Take the questions that the corpus stage derived from its own documents."""

    kind: str = "auto"
    """How the questions want to be answered, one of the kinds in qa/prompts.yaml; `auto` looks the name up there."""

    contexts_field: str = ""
    """Field of the file that holds the passages; empty: the first of the usual ones that holds any (docs/tuning.md)."""

    answers_field: str = ""
    """Field of the file that holds the answers; empty: `answers`, `answer` or `longform_answer`."""

    published: PublishedSet | None = None
    """What the set was in a published run. Another size gives a warning."""

    @model_validator(mode="after")
    def _one_place(self) -> SetConfig:
        require(self, "path", not (self.from_corpus and self.path), "no path beside from_corpus=true")
        require(self, "dev", self.dev is None or self.path is not None, "a path beside it")
        return self


class BlendConfig(StageConfig):
    """A blend file: several question sets with weights."""

    whole_file: ClassVar[bool] = True

    name: str = Field(min_length=1)
    """The blend's name; tuned checkpoints are named after it."""

    data: str = ""
    """Folder of the question sets; `$VARIABLES` are filled in."""

    sets: tuple[SetConfig, ...] = Field(min_length=1)
    """What is blended."""

    @model_validator(mode="after")
    def _distinct(self) -> BlendConfig:
        names = [one.name for one in self.sets]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(self, "sets", not twice, f"each name once; found twice: {', '.join(twice)}")
        return self


class SftDataConfig(StageConfig):
    """What the model is tuned on."""

    blend: Path | None = None
    """A blend file, such as tools/retro/sft/blends/open_inst.yaml. With neither `blend` nor `sets`, the
    questions that the corpus stage derived are used."""

    sets: tuple[SetConfig, ...] = ()
    """The sets themselves, instead of a blend file."""

    data: Path | None = None
    """Folder of the question sets; goes before the blend file's own `data`."""

    style: Literal["plain", "instructretro", "chat"] = "instructretro"
    """Prompt style. `plain` is a dozen tokens around the question, for models with a few hundred tokens of
    context. `chat` writes the turns with the chat template of the tokenizer's folder; the loss is on the answer and
    the token that ends the assistant's turn."""

    add_special_tokens: AddSpecialTokens = "auto"
    """Whether prompts begin with a begin-of-sequence token, as `generate.add_special_tokens` says."""

    contexts_in_prompt: NonNegativeInt = 1
    """Passages shown in the prompt itself; they are cut, then dropped, when the prompt does not fit."""

    passage_order: PassageOrder = "best_first"
    """How passages stand in the prompt, as `generate.passage_order` says; what does not fit is cut from the worst."""

    passages_from: Literal["contexts", "retriever", "live"] = "contexts"
    """Where passages come from: the question's own contexts (and `chunk_ctxs` for the answer's chunks), or a search of
    the database with the question; `live` continues to search with each finished chunk of the answer, which then reads
    what was found, as in generation with live retrieval."""

    neighbor_text: Literal["text", "title_and_text"] = "title_and_text"
    """What of a passage the encoder reads."""

    encoder: bool = True
    """Whether the encoder reads passages while tuning. Off is how NVIDIA's InstructRetro models were tuned:
    only the decoder learns, from passages in its prompt."""

    prompts: Path | None = None
    """A file of prompt texts, merged over the shipped ones; its version goes into the manifest."""

    template: str = ""
    """One of the alternative templates of the prompt texts; empty: the usual prompt."""

    skip_unusable: bool = False
    """Leave out, and count, questions without an answer and those that do not fit a sequence. Without it the first of
    them is an error that names its file and line."""

    packing: bool = False
    """Put several training samples in a row in one sequence, as many as fit. Each answer begins on a chunk border; a
    sample sees nothing of the others and reads its own passages only. `train.global_batch` still counts sequences, so a
    step then takes several times as many samples. Validation is never packed; its loss is the same either way."""

    seed: NonNegativeInt = 1234
    """Seed of the order of samples."""

    @model_validator(mode="after")
    def _one_source(self) -> SftDataConfig:
        require(self, "sets", not (self.sets and self.blend), "no sets beside a blend file")
        need = "encoder=true, which reads what the answer's chunks find; without it passages_from=retriever is the same"
        require(self, "passages_from", self.passages_from != "live" or self.encoder, need)
        return self

    def resolved_blend(self) -> BlendConfig:
        """The blend that was asked for, read from its file if there is one, with `data` filled in."""
        if self.blend is not None:
            blend = read_blend(self.blend)
        elif self.sets:
            blend = BlendConfig(name="-".join(one.name for one in self.sets), sets=self.sets)
        else:
            blend = BlendConfig(name="corpus", sets=(SetConfig(name="corpus", from_corpus=True),))
        data = str(self.data) if self.data is not None else blend.data
        return blend.model_copy(update={"data": data})


def read_blend(path: Path) -> BlendConfig:
    """Read a blend file: YAML, or NVIDIA's form, a .sh file with the line `DATA_BLEND="0.7 one 0.3 two"`.

    Raises:
        DataError: It cannot be read, or a setting in it is wrong; the file is named.
    """
    if path.suffix == ".sh":
        return _read_shell_blend(path)
    try:
        return BlendConfig(**({"name": path.stem} | read_yaml(path)))
    except ConfigError as error:
        raise DataError(path, str(error), "Fix that setting; examples are in tools/retro/sft/blends") from None


_ASSIGNMENT = re.compile(r"""^\s*(?:export\s+)?DATA_BLEND=(["'])(.*?)\1""", re.MULTILINE | re.DOTALL)


def _read_shell_blend(path: Path) -> BlendConfig:
    """The blend in a shell script, which is read and not run; its sets are folders below $DATA."""
    remedy = 'Give it one line of the form DATA_BLEND="0.7 one 0.3 two": weight, name, weight, name'
    found = _ASSIGNMENT.findall(read_text(path, "blend file"))
    if len(found) != 1:
        raise DataError(path, f"sets DATA_BLEND {len(found)} times", remedy)
    words = found[0][1].replace("\\\n", " ").split()
    if not words or len(words) % 2:
        raise DataError(path, f"has {len(words)} words in DATA_BLEND", remedy)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    for weight, name in pairs:
        if not _is_number(weight):
            raise DataError(path, f"has the weight {weight!r} before {name!r}", remedy)
    try:
        sets = tuple(SetConfig(name=name, weight=float(weight)) for weight, name in pairs)
        return BlendConfig(name=path.stem, data="$DATA", sets=sets)
    except ConfigError as error:
        raise DataError(path, str(error), remedy) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def expand_variables(setting: str, text: str) -> Path:
    """Fill `$VARIABLES` in a path.

    Raises:
        ConfigError: A variable is not set.
    """
    filled = os.path.expandvars(os.path.expanduser(text))  # noqa: PTH111 - both must see the text before it is a Path
    if "$" in filled:
        raise ConfigError(setting, text, "needs its variables set, as in DATA=/path/to/questions retro sft …")
    return Path(filled)


class SftTrainConfig(TrainConfig):
    """The training loop's settings with the paper's values for tuning (Wang et al. 2023, appendix)."""

    micro_batch: PositiveInt = 1
    """Sequences in one forward pass on one rank."""
    global_batch: PositiveInt = 128
    """Sequences in one optimizer step."""
    lr: PositiveFloat = 5e-6
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "constant"
    """Decay after the warm-up."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up from zero."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay, on matrices only."""
    beta2: float = Field(default=0.98, ge=0.0, lt=1.0)
    """Adam's second moment."""

    @model_validator(mode="after")
    def _shows_all(self) -> SftTrainConfig:
        require(self, "hidden_neighbors", not self.hidden_neighbors, "0: only pretraining hides neighbors")
        return self


class SftConfig(StageConfig):
    """Tune a pretrained model on instructions (Wang et al. 2023, section 4)."""

    data: SftDataConfig = SftDataConfig()
    """Questions, prompts and passages."""
    train: SftTrainConfig = SftTrainConfig()
    """Steps, batch and optimizer."""
    start_from: Path | None = None
    """The checkpoint to tune; absent: the one this run pretrained."""
    sequence_length: PositiveInt | None = None
    """Most tokens of a tuning sample, prompt and answer together; absent: as the checkpoint was trained. Fewer take
    less memory, and need rotary positions; the tuned model is one of that length."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens that the model gets beside those of its tokenizer, such as `[Retrieval]`. Their rows of the
    embedding start as the mean of the others, and are trained whatever else is frozen."""
    size: str | None = None
    """Size that the checkpoint must have, such as 843m; absent: whatever it has. A check; it shapes nothing."""
