"""The row of the ablation in which Retro's chunked cross-attention reads the documents of the same frozen model.

The model is retro-fitted: only cross-attention and the encoder are trained, on the same questions, documents, prompt,
batches and steps as the prefix, and about as many weights as the prefix has; both counts are in the table.

<variant>/start/     the retro-fitted model        <variant>/sft/         the sft stage
<variant>/answer/    the generate stage            <variant>/evaluate/    the evaluate stage
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from retro.common.artifacts import REPORT, is_complete
from retro.common.config import config_json
from retro.common.files import atomic_path, read_json
from retro.corpus.config import CorpusConfig, SourceConfig, TokenizerConfig
from retro.evaluate import score as evaluate
from retro.evaluate.scores import SCORES
from retro.generate import run as generate
from retro.generate.config import GenerateConfig, ModelPaths
from retro.model.count import count_parameters
from retro.recipes.dynamic_prefix.ablation.retrofit import Fit, nearest_fit, retrofit, with_length
from retro.recipes.item_files import read_items, write_items
from retro.run.config import RunConfig
from retro.run.pipeline import stage, stage_lock
from retro.sft import tune
from retro.sft.config import SetConfig, SftConfig, SftDataConfig, SftTrainConfig
from retro.training import checkpoint
from retro.training.result import of_stage

_KIND, _STYLE, _NAME = "short_span", "style.yaml", "dynamic_prefix"
_REDO = "Delete its folder and run the command again"


@dataclass(frozen=True, kw_only=True)
class Rival:
    """What the row shares with the prefix."""

    config: RunConfig
    """The row's own run."""
    settings: Any
    """The recipe's, of the run that is varied."""
    base: Path
    """The frozen model: a checkpoint, or what holds one."""
    train: Path
    """Questions with documents that are learned."""
    valid: Path | None
    questions: Path
    """Those that are answered, with documents."""
    task: Path
    """Scores them."""
    target: int
    """Weights that the prefix trains."""

    @property
    def home(self) -> Path:
        """The row's folder."""
        return self.config.run_dir

    @property
    def documents(self) -> int:
        """Documents that are read of each question."""
        return int(self.settings.answer.documents or self.settings.prefix.documents)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it."""

    fit: Fit
    frozen: int
    """Weights of the frozen model."""
    means: dict[str, Any]
    """Scores with intervals, by metric."""
    seconds: dict[str, float]


def run_rival(rival: Rival) -> Outcome:
    """Retro-fit, tune, answer and score; what is complete is skipped.

    Raises:
        RetroError: As the stages.
    """
    parent = checkpoint.read_info(checkpoint.find(of_stage(rival.base)))
    parent = with_length(parent, rival.settings.train.sequence_length)
    fit = nearest_fit(
        parent.shape, target=rival.target, neighbors=rival.documents,
        document_tokens=rival.settings.prefix.max_document_tokens,
    )  # fmt: skip
    start = checkpoint.step_directory(rival.home / "start", 0)
    if not checkpoint.holds_one(start):
        start.parent.mkdir(parents=True, exist_ok=True)
        retrofit(parent, fit.shape, start, rival.settings.train.train.seed)
    style = _write_style(rival)
    _corpus(rival, parent.tokenizer)
    _tune(rival, start, style)
    _answer(rival, style)
    settings = rival.config.evaluate.model_copy(update={"task": str(rival.task)})
    out, page = rival.home / "evaluate", rival.home / "answers.html"
    evaluate.run(settings, rival.home / "answer", out, report=page, run_dir=rival.home)
    scores = read_json(out / SCORES, _REDO)
    [means] = scores["settings"].values()
    seconds = {"train": float(read_json(rival.home / "sft" / REPORT, _REDO)["seconds"])}
    frozen = count_parameters(fit.shape).gpt
    return Outcome(fit=fit, frozen=frozen, means={name: means[name] for name in scores["metrics"]}, seconds=seconds)


def _write_style(rival: Rival) -> Path:
    """Prompt texts that make the prompt of the prefix."""
    form = {"question": rival.settings.train.question, "preamble": "", "instructions": False}
    data = {"name": _NAME, "version": 1, "styles": {"plain": form}}
    path = rival.home / _STYLE
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def _corpus(rival: Rival, tokenizer: Path | None) -> None:
    """Have a corpus, which tuning asks for: the run's, which is linked already, or the documents of the questions.

    Nothing of it is read: the checkpoint brings its tokenizer, and the samples are the questions.
    """
    if tokenizer is None or is_complete(stage("corpus").path(rival.config)):
        return
    texts = rival.home / "documents.jsonl"
    found = read_items(rival.train, ("question",), "questions")
    write_items(texts, ({"text": one["text"]} for item in found for one in item.get("ctxs", ())))
    kind: Literal["huggingface", "sentencepiece"] = "sentencepiece"
    if (tokenizer / "tokenizer.json").exists():
        kind = "huggingface"
    corpus = CorpusConfig(
        sources=(SourceConfig(name="documents", path=texts, split="train"),), split=(1, 0, 0),
        tokenizer=TokenizerConfig(kind=kind, path=tokenizer, max_lost_fraction=1.0),
    )  # fmt: skip
    config = rival.config.model_copy(update={"corpus": corpus})
    with stage_lock(config, "corpus"):
        stage("corpus").run(config)


def _tune(rival: Rival, start: Path, style: Path) -> None:
    train = config_json(rival.settings.train.train) | {"train_only": "retrieval"}
    data = SftDataConfig(
        sets=(SetConfig(name=_NAME, path=rival.train, dev=rival.valid, kind=_KIND),), style="plain", prompts=style,
        contexts_in_prompt=0, encoder=True, skip_unusable=True,
    )  # fmt: skip
    sft = SftConfig(data=data, train=SftTrainConfig(**train))
    nowhere = rival.home / "no_database"
    corpus = stage("corpus").path(rival.config)
    tune.run(sft, rival.config.parallel, start.parent, corpus, nowhere, nowhere, rival.home / "sft")


def _answer(rival: Rival, style: Path) -> None:
    own: dict[str, Any] = {
        "questions": (rival.questions,), "data": None, "task": str(rival.task), "prompts": style, "style": "plain",
        "template": "", "settings": ("with_passages",), "passages_from": "contexts", "contexts_in_prompt": 0,
        "encoder": True, "checkpoint": None, "step": None, "limit": None, "start": 0, "count": None,
        "max_new_tokens": rival.settings.answer.max_new_tokens, "batch_size": rival.settings.answer.batch_size,
    }  # fmt: skip
    settings: GenerateConfig = rival.config.generate.model_copy(update=own)
    nowhere = rival.home / "no_database"
    corpus = stage("corpus").path(rival.config)
    paths = ModelPaths(
        checkpoint=rival.home / "sft", corpus=corpus, db=nowhere, index=nowhere, search=rival.config.search
    )
    generate.run(settings, rival.config.parallel, paths, rival.home / "answer")
