"""The next token of each answer, from its logits, and log-probabilities as they are reported.

Drawing uses one uniform number per answer and step, from a stream of the request's own, so that an answer does not
depend on the batch it was computed in; a shared torch.Generator would give other answers each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retro.common.errors import TrainingError
from retro.generate.request import ChosenToken, Sampling, TokenProbability

# Dims in this file.
#   B answers in the batch   V vocabulary   W likeliest tokens of it


CANDIDATES = 1024
"""Likeliest tokens that are looked at first."""


@dataclass(frozen=True, kw_only=True)
class TokenSelection:
    """By what one answer's next token is chosen."""

    sampling: Sampling
    may_end: bool = True
    """Whether an end token may be chosen."""
    seen_V: Tensor | None = None
    """True for tokens that stand in prompt or answer; needed with a repetition penalty."""
    uniform: float = 0.0
    """A number in [0, 1); not looked at when the likeliest token is taken."""


def choose(logits_BV: Tensor, choices: Sequence[TokenSelection], ends: Sequence[int]) -> Tensor:
    """One token for each row.

    Args:
        logits_BV: float32; left as they are.
        choices: [B].
        ends: The end tokens.

    Returns:
        [B] int64.
    """
    adjusted_BV = _adjusted(logits_BV, choices, ends)
    chosen_B = adjusted_BV.argmax(dim=-1)
    drawing = [row for row, choice in enumerate(choices) if choice.sampling.temperature > 0]
    if drawing:
        chosen_B[drawing] = _drawn(adjusted_BV[drawing], [choices[row] for row in drawing])
    return chosen_B


def _adjusted(logits_BV: Tensor, choices: Sequence[TokenSelection], ends: Sequence[int]) -> Tensor:
    """Logits with repetitions penalised, and without the end tokens where none may come yet."""
    if all(choice.may_end and choice.sampling.repetition_penalty == 1.0 for choice in choices):
        return logits_BV
    adjusted_BV = logits_BV.clone()
    for row, choice in enumerate(choices):
        penalty = choice.sampling.repetition_penalty
        if penalty != 1.0 and choice.seen_V is not None:
            logits_V = logits_BV[row]
            lowered_V = torch.where(logits_V > 0, logits_V / penalty, logits_V * penalty)
            adjusted_BV[row] = torch.where(choice.seen_V, lowered_V, logits_V)
        if not choice.may_end:
            adjusted_BV[row, list(ends)] = float("-inf")
    return adjusted_BV


def _drawn(logits_BV: Tensor, choices: Sequence[TokenSelection]) -> Tensor:
    """Draw from each row: top-k first, then top-p of what is left.

    Sorting a vocabulary costs seven times what finding its likeliest thousand does (32,000 tokens, one core), and these
    nearly always hold all that may be drawn. Which way a row goes depends on nothing but the row.
    """
    vocabulary, chosen_B = logits_BV.size(1), torch.zeros(len(choices), dtype=torch.int64, device=logits_BV.device)
    wide = list(range(len(choices)))
    narrow = [row for row in wide if choices[row].sampling.top_p < 1 or 0 < choices[row].sampling.top_k <= CANDIDATES]
    if narrow and vocabulary > CANDIDATES:
        found_B, decided_B = _drawn_from(logits_BV[narrow], [choices[row] for row in narrow], CANDIDATES)
        chosen_B[narrow] = found_B
        decided = {row for row, one in zip(narrow, decided_B.tolist(), strict=True) if one}
        wide = [row for row in wide if row not in decided]
    if wide:
        chosen_B[wide], _ = _drawn_from(logits_BV[wide], [choices[row] for row in wide], vocabulary)
    return chosen_B


def _drawn_from(logits_BV: Tensor, choices: Sequence[TokenSelection], width: int) -> tuple[Tensor, Tensor]:
    """Draw from the W likeliest tokens of each row.

    Returns:
        [B] tokens, and [B] whether W tokens hold all that may be drawn.
    """
    samplings = [choice.sampling for choice in choices]
    vocabulary = logits_BV.size(1)
    temperature_B1 = _column([one.temperature for one in samplings], logits_BV)
    top_p_B1 = _column([one.top_p for one in samplings], logits_BV)
    top_k_B1 = _column([min(one.top_k or vocabulary, vocabulary) for one in samplings], logits_BV)
    values_BW, ids_BW = _likeliest(logits_BV, width)
    # The best logit becomes 0 first: divided by a tiny temperature it would overflow.
    best_B1 = values_BW[:, :1].double()
    kept_BW = torch.arange(width, device=logits_BV.device) < top_k_B1
    scaled_BW = ((values_BW.double() - best_B1) / temperature_B1).masked_fill(~kept_BW, float("-inf"))
    norm_B1 = ((logits_BV.double() - best_B1) / temperature_B1).logsumexp(dim=-1, keepdim=True)
    norm_B1 = torch.where(top_k_B1 <= width, scaled_BW.logsumexp(dim=-1, keepdim=True), norm_B1)
    probability_BW = (scaled_BW - norm_B1).exp()
    gathered_BW = probability_BW.cumsum(dim=-1)
    # The fewest tokens that reach top_p: those before which less than top_p was gathered.
    kept_BW = (gathered_BW - probability_BW < top_p_B1) & (probability_BW > 0)
    mass_BW = (probability_BW * kept_BW).cumsum(dim=-1)
    target_B1 = _column([choice.uniform for choice in choices], logits_BV) * mass_BW[:, -1:]
    # The first token whose mass exceeds the draw. Rounding can leave no mass above its own total.
    place_B1 = (mass_BW <= target_B1).sum(dim=-1, keepdim=True)
    place_B1 = torch.minimum(place_B1, kept_BW.sum(dim=-1, keepdim=True) - 1)
    whole_B1 = (top_k_B1 <= width) | ((top_k_B1 == vocabulary) & (gathered_BW[:, -1:] >= top_p_B1))
    return ids_BW.gather(-1, place_B1).squeeze(-1), whole_B1.squeeze(-1)


def _likeliest(logits_BV: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The W likeliest tokens of each row, likeliest first, equal ones by id: [B, W] logits and ids."""
    if width == logits_BV.size(1):
        return logits_BV.sort(dim=-1, descending=True, stable=True)
    ids_BW = logits_BV.topk(width, dim=-1).indices.sort(dim=-1).values
    values_BW, order_BW = logits_BV.gather(-1, ids_BW).sort(dim=-1, descending=True, stable=True)
    return values_BW, ids_BW.gather(-1, order_BW)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device).unsqueeze(-1)


# Dims in this file.
#   B rows   V vocabulary


class Probabilities:
    """The distributions of one step."""

    def __init__(self, logits_BV: Tensor) -> None:
        """Normalise some rows of logits.

        Raises:
            TrainingError: A row is not finite: the weights are damaged, or the precision overflows.
        """
        self._logits_BV = logits_BV
        self._norm_B1 = logits_BV.logsumexp(dim=-1, keepdim=True)
        if not bool(torch.isfinite(self._norm_B1).all()):
            raise TrainingError(
                "the model's logits are not finite. Use another checkpoint, or compute in float32 if this is bfloat16"
            )

    def of(self, ids: Sequence[int]) -> list[float]:
        """The log-probability of one token in each row."""
        ids_B1 = torch.tensor(ids, device=self._logits_BV.device).unsqueeze(-1)
        found: list[float] = (self._logits_BV.gather(-1, ids_B1) - self._norm_B1).squeeze(-1).tolist()
        return found

    def named(self, row: int, ids: Sequence[int]) -> tuple[TokenProbability, ...]:
        """The log-probabilities of some tokens in one row, in their order."""
        if not ids:
            return ()
        found = self._logits_BV[row, list(ids)] - self._norm_B1[row]
        return tuple(TokenProbability(id=id_, logprob=one) for id_, one in zip(ids, found.tolist(), strict=True))

    def top(self, row: int, count: int) -> tuple[TokenProbability, ...]:
        """The likeliest tokens of one row, likeliest first."""
        if not count:
            return ()
        values, ids = self._logits_BV[row].topk(count)
        pairs = zip(ids.tolist(), (values - self._norm_B1[row]).tolist(), strict=True)
        return tuple(TokenProbability(id=id_, logprob=one) for id_, one in pairs)

    def token(
        self, row: int, id_: int, logprob: float, top: int, named: Sequence[int], *, appended: bool = False
    ) -> ChosenToken:
        """A token of an answer with what its request asks for."""
        return ChosenToken(
            id=id_, logprob=logprob, top=self.top(row, top), named=self.named(row, named), appended=appended
        )
