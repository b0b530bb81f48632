"""The scoring rules of SQuAD 1.1, SQuAD 2.0 and HotpotQA once more, written from what their papers and scripts do.

Apart from the code under test: letter by letter and with sorted lists, where that has translation tables and counters.
"""

from __future__ import annotations

ARTICLES = ("a", "an", "the")
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def words_of(text: str) -> list[str]:
    """Lower case, punctuation dropped, then split at white space; articles are not words."""
    kept = "".join(letter for letter in text.lower() if letter not in PUNCTUATION)
    return [word for word in spaced(kept).split() if word]


def spaced(text: str) -> str:
    """Articles give way to a space. They end where a letter, a digit or an underscore begins or ends."""
    out, word = [], ""
    for letter in text + " ":
        if letter.isalnum() or letter == "_":
            word += letter
            continue
        out.append(" " if word in ARTICLES else word)
        out.append(letter)
        word = ""
    return "".join(out)


def shared(one: list[str], other: list[str]) -> int:
    """Words that both have, each as often as both have it: a merge of the two sorted lists."""
    left, right, count = sorted(one), sorted(other), 0
    while left and right:
        if left[0] == right[0]:
            count += 1
            left, right = left[1:], right[1:]
        elif left[0] < right[0]:
            left = left[1:]
        else:
            right = right[1:]
    return count


def f1_of_counts(said: int, gold: int, same: int) -> float:
    """Dice's coefficient, which is the harmonic mean of precision and recall."""
    return 2 * same / (said + gold) if same else 0.0


def squad(prediction: str, golds: list[str]) -> tuple[float, float]:
    """Exact match and F1 as SQuAD 1.1's script has them."""
    said = words_of(prediction)
    matched = max(1.0 if " ".join(words_of(gold)) == " ".join(said) else 0.0 for gold in golds)
    overlaps = [f1_of_counts(len(said), len(words_of(gold)), shared(said, words_of(gold))) for gold in golds]
    return matched, max(overlaps)


def squad2(prediction: str, golds: list[str]) -> tuple[float, float]:
    """Exact match and F1 as SQuAD 2.0's script has them; an empty text stands for "no answer"."""
    real = [gold for gold in golds if words_of(gold)] or [""]
    said = words_of(prediction)
    found = []
    for gold in real:
        wanted = words_of(gold)
        matched = 1.0 if wanted == said else 0.0
        both = bool(wanted) and bool(said)
        found.append((matched, f1_of_counts(len(said), len(wanted), shared(said, wanted)) if both else matched))
    return max(em for em, _ in found), max(f1 for _, f1 in found)


def quac(prediction: str, golds: list[str]) -> float:
    """F1 as QuAC's script has it; CANNOTANSWER alone says that there is no answer."""
    none = [gold for gold in golds if gold == "CANNOTANSWER"]
    kept = ["CANNOTANSWER"] if len(none) >= len(golds) - len(none) else [g for g in golds if g != "CANNOTANSWER"]
    found = []
    for gold in kept:
        if "CANNOTANSWER" in (gold, prediction):
            found.append(1.0 if gold == prediction else 0.0)
            continue
        said, wanted = words_of(prediction), words_of(gold)
        found.append(f1_of_counts(len(said), len(wanted), shared(said, wanted)))
    if len(found) == 1:
        return found[0]
    return sum(max(found[:n] + found[n + 1 :]) for n in range(len(found))) / len(found)


def hotpotqa(prediction: str, gold: str) -> tuple[float, float]:
    """Exact match and F1 as HotpotQA's script has them: three answers stand for themselves alone."""
    said, wanted = words_of(prediction), words_of(gold)
    one, other = " ".join(said), " ".join(wanted)
    alone = {"yes", "no", "noanswer"}
    if one != other and alone & {one, other}:
        return 0.0, 0.0
    return (1.0 if one == other else 0.0), f1_of_counts(len(said), len(wanted), shared(said, wanted))
