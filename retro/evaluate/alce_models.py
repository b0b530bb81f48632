"""The models of ALCE's scores, from folders or the HuggingFace Hub: entailment, reading of answers, MAUVE's features.

Each is a callable like those of `retro.qa.citations` and `retro.evaluate.alce`, which a rule can stand in for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import DataError, DependencyError
from retro.common.files import read_json
from retro.common.pretrained import device, find_model, load_model, longest_text
from retro.common.progress import Progress
from retro.qa.citations import Entails

# Dims in this file. N texts   B texts, or pieces of one, read at once   T tokens   H hidden size   2 begin and end

BATCH = 16
"""Texts that a model reads at once."""


def load_scorers(models: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `score_alce` for models by their kind: nli, qa and mauve.

    Raises:
        DataError: One is not there, or is of another kind.
        DependencyError: A package is missing.
    """
    folders = {kind: find_model(name) for kind, name in models.items()}
    loaded = {"nli": ("entails", load_entails), "qa": ("answers", ReadingModel), "mauve": ("mauve", MauveOfFeatures)}
    return {loaded[kind][0]: loaded[kind][1](folder) for kind, folder in folders.items()}


def load_entails(folder: Path) -> Entails:
    """A model that says what is entailed: one that writes 1 for it, as TRUE's does, or one that classifies pairs.

    Raises:
        DataError: It is of another kind, or cannot be loaded.
        DependencyError: transformers is missing.
    """
    settings = read_json(folder / "config.json", "Give a complete model folder", dict[str, Any], error=DataError)
    if any(str(one).endswith("ForSequenceClassification") for one in settings.get("architectures") or ()):
        return PairClassifier(folder)
    if settings.get("is_encoder_decoder"):
        return TrueModel(folder)
    problem = f"is a {' or '.join(settings.get('architectures') or ['model of no architecture'])}"
    remedy = "Give an encoder-decoder of TRUE's form, or a model for sequence classification trained on entailment"
    raise DataError(folder, problem, remedy)


class TrueModel:
    """An encoder-decoder that reads `premise: … hypothesis: …` and writes 1 where it follows (TRUE, arXiv:2204.04991).

    In bfloat16 on a GPU, where the published one has 11 billion parameters; in float32 on a CPU.
    """

    def __init__(self, folder: Path, batch: int = BATCH) -> None:
        dtype = "float32" if device() == "cpu" else "bfloat16"
        self.batch = batch
        self.model, self.tokenizer = load_model(
            folder, "AutoModelForSeq2SeqLM", what="a model of entailment", use="says what passages entail", dtype=dtype
        )

    def __call__(self, premises: Sequence[str], hypotheses: Sequence[str]) -> list[bool]:
        """See `Entails`."""
        import torch

        texts = [f"premise: {one} hypothesis: {two}" for one, two in zip(premises, hypotheses, strict=True)]
        found: list[bool] = []
        with torch.inference_mode():
            for some in _batches(texts, self.batch, "pairs judged"):
                # Whole: its positions are relative, and a cut premise is another premise.
                read = self.tokenizer(some, padding=True, return_tensors="pt").to(self.model.device)
                written = self.model.generate(**read, max_new_tokens=10, do_sample=False, num_beams=1)
                said = self.tokenizer.batch_decode(written, skip_special_tokens=True)
                found += [text.strip() == "1" for text in said]
        return found


class PairClassifier:
    """A model that classifies pairs of texts, one of its classes being called entailment."""

    def __init__(self, folder: Path, batch: int = BATCH) -> None:
        self.batch = batch
        self.model, self.tokenizer = load_model(
            folder,
            "AutoModelForSequenceClassification",
            what="a model of entailment",
            use="says what passages entail",
        )
        names = {str(name).lower(): int(number) for number, name in self.model.config.id2label.items()}
        if "entailment" not in names:
            problem = f"has no class 'entailment' in its config, but {', '.join(sorted(names))}"
            raise DataError(folder, problem, "Name its classes in id2label of config.json")
        self.entailment = names["entailment"]
        self.limit = longest_text(self.model, self.tokenizer, unknown=512)

    def __call__(self, premises: Sequence[str], hypotheses: Sequence[str]) -> list[bool]:
        """See `Entails`. Where a pair is too long, the longer text, which is the premise, is cut."""
        import torch

        pairs = list(zip(premises, hypotheses, strict=True))
        found: list[bool] = []
        with torch.inference_mode():
            for some in _batches(pairs, self.batch, "pairs judged"):
                first, second = (list(side) for side in zip(*some, strict=True))
                ways = {"padding": True, "truncation": True, "max_length": self.limit, "return_tensors": "pt"}
                read = self.tokenizer(first, second, **ways).to(self.model.device)
                found += (self.model(**read).logits.argmax(dim=-1) == self.entailment).tolist()
        return found


# As readers of SQuAD are used: 384 tokens at a time, 128 of them of the piece before, and answers of 15 tokens.
_WINDOW, _STRIDE, _LONGEST_ANSWER = 384, 128, 15


class ReadingModel:
    """A model of extractive question answering, trained on SQuAD: it may find that a text does not answer."""

    def __init__(self, folder: Path) -> None:
        self.model, self.tokenizer = load_model(
            folder, "AutoModelForQuestionAnswering", what="a reading model", use="reads answers out of texts"
        )
        if not self.tokenizer.is_fast or self.tokenizer.cls_token_id is None:
            problem = "has a tokenizer without [CLS], or one that does not say where in a text its tokens are"
            raise DataError(folder, problem, "Give a model such as BERT or RoBERTa, with tokenizer.json")
        self.window = min(_WINDOW, longest_text(self.model, self.tokenizer, unknown=512))

    def __call__(self, questions: Sequence[str], contexts: Sequence[str]) -> list[str]:
        """See `Answers`."""
        with Progress(len(questions), what="alce", unit="answers read") as bar:
            found = []
            for question, context in zip(questions, contexts, strict=True):
                found.append(self._read(question, context) if context.strip() else "")
                bar.advance()
        return found

    def _read(self, question: str, context: str) -> str:
        import torch

        pieces = self.tokenizer(
            self._shortened(question), context, truncation="only_second", max_length=self.window, padding=True,
            stride=min(_STRIDE, self.window // 4), return_overflowing_tokens=True, return_offsets_mapping=True,
            return_tensors="pt",
        )  # fmt: skip
        del pieces["overflow_to_sample_mapping"]
        offsets_BT2 = pieces.pop("offset_mapping").tolist()
        begins_B = (pieces["input_ids"] == self.tokenizer.cls_token_id).int().argmax(dim=1).tolist()
        inside_BT = [[part == 1 for part in pieces.sequence_ids(number)] for number in range(len(begins_B))]
        with torch.inference_mode():
            said = self.model(**pieces.to(self.model.device))
        starts_BT, ends_BT = said.start_logits.float().tolist(), said.end_logits.float().tolist()
        # No answer is a span of [CLS] alone, and is as likely as in the piece that is least sure of it.
        none = min(starts[at] + ends[at] for starts, ends, at in zip(starts_BT, ends_BT, begins_B, strict=True))
        found = [
            (score, context[offsets[first][0] : offsets[last][1]].strip())
            for *one, offsets in zip(starts_BT, ends_BT, inside_BT, offsets_BT2, strict=True)
            for score, first, last in best_span(*one)
        ]
        score, answer = max(found, key=lambda one: one[0], default=(none, ""))
        return answer if score >= none else ""

    def _shortened(self, question: str) -> str:
        """The question, cut where it would leave less than half of the window to the text."""
        offsets = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        most = self.window // 2
        return question if len(offsets) <= most else question[: offsets[most - 1][1]]


def best_span(starts: Sequence[float], ends: Sequence[float], inside: Sequence[bool]) -> list[tuple[float, int, int]]:
    """Score, first and last place of the span with the highest sum of its two scores; nothing where none is allowed.

    Args:
        starts: [T] how likely a span begins at a token.
        ends: [T] how likely one ends there.
        inside: [T] whether a token is of the text: all between two of those are.
    """
    places = [place for place, here in enumerate(inside) if here]
    spans = (
        (starts[first] + ends[last], first, last)
        for number, first in enumerate(places)
        for last in places[number : number + _LONGEST_ANSWER]
    )
    best = max(spans, key=lambda span: span[0], default=None)
    return [] if best is None else [best]


class MauveOfFeatures:
    """MAUVE over the last state of a causal language model, by the package mauve-text (published: of GPT-2 large)."""

    def __init__(self, folder: Path, batch: int = BATCH) -> None:
        self.compute = _mauve_package().compute_mauve
        self.batch = batch
        self.model, self.tokenizer = load_model(
            folder, "AutoModel", what="a language model for MAUVE", use="computes the features that MAUVE compares"
        )
        self.limit = longest_text(self.model, self.tokenizer, unknown=512)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # What follows a text changes none of its states in a causal model.
        self.tokenizer.padding_side = "right"

    def __call__(self, predictions: Sequence[str], references: Sequence[str]) -> float:
        """See `Mauve`."""
        features = {"p_features": self.features(references), "q_features": self.features(predictions)}
        return float(self.compute(**features, verbose=False).mauve)

    def features(self, texts: Sequence[str]) -> Any:
        """[N, H] float32, the state of each text's last token."""
        import torch

        found = []
        with torch.inference_mode():
            for some in _batches(texts, self.batch, "texts read for MAUVE"):
                ways = {"padding": True, "truncation": True, "max_length": self.limit, "return_tensors": "pt"}
                read = self.tokenizer(list(some), **ways).to(self.model.device)
                states_BTH = self.model(**read).last_hidden_state.float()
                last_B = read["attention_mask"].sum(dim=1) - 1
                found.append(states_BTH[torch.arange(len(some), device=last_B.device), last_B].cpu())
        return torch.cat(found).numpy()


def _mauve_package() -> Any:
    try:
        return importlib.import_module("mauve")
    except ImportError as error:
        problem = f"computes MAUVE, and cannot be imported ({error})"
        remedy = "Run `pip install mauve-text` (its licence is GPL 3.0), or leave out --mauve"
        raise DependencyError("mauve-text", problem, remedy) from None


def _batches(items: Sequence[Any], size: int, unit: str) -> Iterator[list[Any]]:
    with Progress(len(items), what="alce", unit=unit) as bar:
        for start in range(0, len(items), size):
            some = list(items[start : start + size])
            yield some
            bar.advance(len(some))
