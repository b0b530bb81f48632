"""The metrics that come with the toolkit, as tasks name them."""

from __future__ import annotations

from collections.abc import Sequence

from retro.qa.answer_files import QuestionLine
from retro.qa.metrics import bleu, drop, rouge, words
from retro.qa.metrics.normalize import Rules
from retro.qa.metrics.registry import metric


@metric(label="Exact match")
def exact_match(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `words.exact_match`."""
    return words.exact_match(said, asked.answers, rules)


@metric(label="F1")
def f1(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `words.f1`."""
    return words.f1(said, asked.answers, rules)


@metric(label="Substring match")
def substring_match(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `words.substring_match`."""
    return words.substring_match(said, asked.answers, rules)


@metric(label="Match (PopQA)")
def popqa_match(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `words.popqa_match`."""
    return words.popqa_match(said, asked.answers)


@metric(label="Match, as written")
def match_raw(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `words.match_raw`."""
    return words.match_raw(said, asked.answers)


@metric(label="Match, normalized")
def match_norm(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `words.match_norm`."""
    return words.match_norm(said, asked.answers, rules)


@metric(label="Answered", needs_gold=False)
def answered(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `words.answered`."""
    return words.answered(said, rules)


@metric(label="Word recall")
def word_recall(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `words.word_recall`."""
    return words.word_recall(said, asked.answers, rules)


@metric(label="BLEU-1", library="nltk")
def bleu_1(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `bleu.bleu_1`."""
    return bleu.bleu_1(said, asked.answers, rules)


@metric(label="ROUGE-1", library=rouge.PACKAGE)
def rouge_1(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `rouge.rouge_n`."""
    return rouge.rouge_n(said, asked.answers, 1)


@metric(label="ROUGE-2", library=rouge.PACKAGE)
def rouge_2(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `rouge.rouge_n`."""
    return rouge.rouge_n(said, asked.answers, 2)


@metric(label="ROUGE-L", library=rouge.PACKAGE)
def rouge_l(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `rouge.rouge_l`."""
    return rouge.rouge_l(said, asked.answers)


@metric(label="ROUGE-Lsum, stemmed", library=rouge.PACKAGE)
def rouge_lsum(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `rouge.rouge_lsum`."""
    return rouge.rouge_lsum(said, asked.answers)


@metric(label="Accuracy")
def accuracy(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `choices.accuracy`."""
    return words.accuracy(said, asked.answers, asked.options)


@metric(label="String exact match")
def string_em(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `words.string_em`."""
    return words.string_em(said, asked.answer_groups, rules)


def _spans(asked: QuestionLine) -> Sequence[Sequence[str]]:
    return asked.answer_groups or [(answer,) for answer in asked.answers]


@metric(label="Exact match (DROP)")
def drop_em(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `drop.drop_em`."""
    return drop.drop_em(said, _spans(asked))


@metric(label="F1 (DROP)")
def drop_f1(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `drop.drop_f1`."""
    return drop.drop_f1(said, _spans(asked))


@metric(label="Exact match (DROP, split)")
def drop_split_em(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `drop.drop_em`, with `part`."""
    return drop.drop_em(said, _spans(asked), part=True)


@metric(label="F1 (DROP, split)")
def drop_split_f1(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `drop.drop_f1`, with `part`."""
    return drop.drop_f1(said, _spans(asked), part=True)


@metric(label="F1 (QuAC)")
def quac_f1(said: str, asked: QuestionLine, rules: Rules) -> float:
    """See `words.quac_f1`."""
    return words.quac_f1(said, asked.answers, rules)
