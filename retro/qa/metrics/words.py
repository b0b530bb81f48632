"""Metrics that compare an answer's words with those of the gold answers, and how varied its words are.

Each takes the prediction, the gold answers and the task's rules, and gives a number from 0 to 1.

The measures of FactualityPrompts (Lee et al. 2022, arXiv:2206.04624) that are counted from the texts alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from retro.qa.metrics.normalize import Rules, golds_of, normalize_answer

SQUAD = Rules()


def exact_match(prediction: str, answers: Sequence[str], rules: Rules = SQUAD) -> float:
    """1 if the prediction equals any gold answer after normalizing, else 0."""
    pairs = (rules.pair(gold, prediction) for gold in rules.golds_of(answers))
    return float(any(gold == said for gold, said in pairs))


def f1(prediction: str, answers: Sequence[str], rules: Rules = SQUAD) -> float:
    """Overlap of words with the gold answer that it overlaps most."""
    return max(overlap(*rules.pair(gold, prediction), rules.whole_answers) for gold in rules.golds_of(answers))


def overlap(gold: str, prediction: str, whole: Sequence[str] = ()) -> float:
    """F1 of the words of two normalized texts.

    Args:
        gold: What is right.
        prediction: What was said.
        whole: Texts that share words with nothing but themselves (HotpotQA: yes, no, noanswer).
    """
    if not gold or not prediction or gold in whole or prediction in whole:
        # Without words there is nothing to share: SQuAD 2.0 gives 1 if both say that there is no answer.
        return float(gold == prediction)
    gold_words, said_words = gold.split(), prediction.split()
    shared = sum((Counter(gold_words) & Counter(said_words)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said_words), shared / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def word_recall(prediction: str, answers: Sequence[str], rules: Rules = SQUAD) -> float:
    """Share of a gold answer's words that the prediction has, whatever else it says (Adlakha et al. 2024)."""
    return max(_recall(*rules.pair(gold, prediction)) for gold in rules.golds_of(answers))


def _recall(gold: str, prediction: str) -> float:
    wanted = Counter(gold.split())
    if not wanted:
        return float(gold == prediction)
    return sum((wanted & Counter(prediction.split())).values()) / sum(wanted.values())


def substring_match(prediction: str, answers: Sequence[str], rules: Rules = SQUAD) -> float:
    """1 if any gold answer is in the prediction as whole words, both normalized.

    InstructRAG (Wei et al. 2024) and ASQA's string exact match normalize too, and take a gold answer within a word
    (`4` in `1947`, `no` in `know`) for found; here it is not, as in what is reported of the passages.
    """
    return float(any(_stands_in(*rules.pair(gold, prediction)) for gold in rules.golds_of(answers)))


def _stands_in(gold: str, prediction: str) -> bool:
    return f" {gold} " in f" {prediction} " if gold else not prediction


def popqa_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if any gold answer is in the prediction: as written, in lower case, or capitalised (Mallen et al. 2023)."""
    forms = (form for gold in golds_of(answers) for form in (gold, gold.lower(), gold.capitalize()))
    return float(any(form in prediction for form in forms))


def match_raw(prediction: str, answers: Sequence[str]) -> float:
    """1 if any gold answer is in the prediction exactly as written, in a word too: Self-RAG's (arXiv:2310.11511).

    An empty gold answer is in an empty prediction alone.
    """
    return float(any(_is_in(gold, prediction) for gold in golds_of(answers)))


def match_norm(prediction: str, answers: Sequence[str], rules: Rules = SQUAD) -> float:
    """As `match_raw`, both after the task's normalisation."""
    return float(any(_is_in(*rules.pair(gold, prediction)) for gold in rules.golds_of(answers)))


def _is_in(gold: str, prediction: str) -> bool:
    return gold in prediction if gold else not prediction


def answered(prediction: str, rules: Rules = SQUAD) -> float:
    """1 if the prediction says anything but that there is no answer."""
    return float(not rules.says_none(prediction))


def string_em(prediction: str, groups: Sequence[Sequence[str]], rules: Rules = SQUAD) -> float:
    """Share of the groups of which one text is in the prediction (ASQA, Stelmakh et al. 2022).

    Raises:
        ValueError: There is no group.
    """
    if not groups:
        raise ValueError("string exact match needs a group of short answers at least")
    said = rules.plain(prediction)
    return sum(any(rules.plain(text) in said for text in group) for group in groups) / len(groups)


def quac_f1(prediction: str, answers: Sequence[str], rules: Rules) -> float:
    """F1; with several gold answers, the mean over leaving each of them out once (QuAC, Choi et al. 2018).

    Where half of the people or more found no answer, that is the answer; else theirs are not compared with.
    """
    golds = golds_of(answers)
    none = [gold for gold in golds if rules.says_none(gold)]
    kept = none[:1] if 2 * len(none) >= len(golds) else [gold for gold in golds if gold not in none]
    # A gold span that normalizes to nothing, such as `the`, is not a label of "no answer" and scores 0.
    found = [f1(prediction, [gold], rules) if rules.plain(gold) or gold in none else 0.0 for gold in kept]
    if len(found) == 1:
        return found[0]
    return sum(max(found[:place] + found[place + 1 :]) for place in range(len(found))) / len(found)


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, theirs in enumerate(other, start=1):
            here = row[place]
            row[place] = before + 1 if word == theirs else max(here, row[place - 1])
            before = here
    return row[-1]


# A phrase said so often in a row at the end, of two words or more, is a loop (Holtzman et al. 2020, arXiv:1904.09751).
TIMES, SHORTEST = 3, 2


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Share of different ones among all n-grams of words of all texts (Li et al. 2016); None: there is no n-gram."""
    grams = [gram for text in texts for gram in _grams(text.lower().split(), n)]
    return len(set(grams)) / len(grams) if grams else None


def repeated(text: str, n: int = 4) -> float:
    """Share of a text's n-grams that was in it before (Welleck et al. 2020, seq-rep-n); 0 for a short text."""
    grams = list(_grams(text.lower().split(), n))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def ends_in_loop(text: str) -> bool:
    """Whether a text ends with a phrase of two words or more, said three times in a row."""
    words = text.lower().split()
    return any(_looped(words, length) for length in range(SHORTEST, len(words) // TIMES + 1))


def _looped(words: Sequence[str], length: int) -> bool:
    end = words[len(words) - TIMES * length :]
    return all(end[place] == end[place % length] for place in range(len(end)))


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


# "B", "(B)", "B. red", "B) red", with or without "the answer is" before it.
_LETTER = re.compile(
    r"^\W*(?:(?:the\s+)?(?:correct\s+)?(?:answer|option)(?:\s+is)?\W*)?\(?([a-z]{1,2})\s*(?:[).:]|$)", re.IGNORECASE
)
_VERDICTS = {"yes": True, "true": True, "no": False, "false": False}


def chosen_option(text: str, options: Sequence[str]) -> int | None:
    """The number of the option that a text chooses; None: none, or more than one.

    It chooses the option whose text it is; else that of the letter it begins with; else the one that is in it.
    """
    for reduced in (str.strip, normalize_answer):
        said, plain = reduced(text), [reduced(option) for option in options]
        if said and plain.count(said) == 1:
            return plain.index(said)
    lettered, _ = lettered_option(text, options)
    if lettered is not None:
        return lettered
    held = [number for number, option in enumerate(plain) if option and f" {option} " in f" {said} "]
    return held[0] if len(held) == 1 else None


def lettered_option(text: str, options: Sequence[str]) -> tuple[int | None, str]:
    """The number of the option whose letter a text begins with, and what follows; None and the text: it has none."""
    letter = _LETTER.match(text.strip())
    if letter and (number := _number(letter[1])) < len(options):
        return number, text.strip()[letter.end() :]
    return None, text


def _number(letters: str) -> int:
    """A 0, B 1, … AA 26, as prompts letter their options."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def verdict(text: str) -> bool | None:
    """Whether a text says yes or true, or no or false: the first of these words counts. None: it has none of them."""
    return next((_VERDICTS[word] for word in normalize_answer(text).split() if word in _VERDICTS), None)


def accuracy(prediction: str, answers: Sequence[str], options: Sequence[str]) -> float:
    """1 if the prediction chooses what a gold answer is; without options, if both say yes or both say no.

    Raises:
        ValueError: No gold answer is an option, or says yes or no.
    """
    golds = {chosen_option(gold, options) if options else verdict(gold) for gold in answers} - {None}
    if not golds:
        wanted = f"one of {list(options)}" if options else "yes or no"
        raise ValueError(f"the gold answer {list(answers)} is not {wanted}")
    said = chosen_option(prediction, options) if options else verdict(prediction)
    return float(said in golds)
