"""What a teacher has done: tokens, cost, and what is left of a budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from typing_extensions import TypedDict

from retro.common.errors import ConfigError
from retro.common.json_files import Count
from retro.teacher.config import TeacherConfig
from retro.teacher.request import TeacherRequest, most_tokens


class KeptRequest(TypedDict):
    """A request, as it is in the cache."""

    model: str
    messages: list[dict[str, str]]
    max_tokens: Count


class KeptReply(TypedDict):
    """A reply, as it is in the cache."""

    text: str
    input_tokens: Count | None
    output_tokens: Count | None
    finish_reason: str
    model: str


class Kept(TypedDict):
    """A request and its reply, as they stand in the cache."""

    request: KeptRequest
    reply: KeptReply


@dataclass(frozen=True, kw_only=True)
class TeacherPlan:
    """What requests would cost: from a dry run, which asks nothing."""

    requests: int
    cached: int
    """Replies that are there already, and repeats of another request."""
    to_send: int
    estimated_input_tokens: int
    """Of those to send; by the length of the text (`request.estimated_tokens`), not by a tokenizer."""
    most_output_tokens: int
    """Of those to send, if each reply is as long as it may be."""
    estimated_cost: float | None
    """Of both, in the currency of the prices; None without prices."""


@dataclass(frozen=True, kw_only=True)
class TeacherReport:
    """What a teacher has done since it was opened, and what its cache holds."""

    model: str
    requests: int
    """Replies that were made; without those that ended in an error."""
    cached: int
    """Replies that were there already."""
    retried: int
    """Tries that failed before a reply came."""
    input_tokens: int
    output_tokens: int
    without_usage: int
    """Replies for which the model reported no tokens: these count as the most that they can be."""
    empty: int
    """Replies without a text."""
    cut: int
    """Replies that ended at their max_tokens."""
    cost: float | None
    """Of the replies that were made, in the currency of the prices; None without prices."""
    kept_replies: int
    """Replies of this model in the cache."""
    kept_cost: float | None
    """What they have cost, whoever asked for them."""
    seconds: float

    def line(self) -> str:
        """The report as one line of a log."""
        cost = "" if self.cost is None else f", cost {self.cost:,.4f} ({self.kept_cost:,.4f} with all that is kept)"
        parts = (f"{count:,} {what}" for count, what in self._exceptions() if count)
        more = "".join(f", {part}" for part in parts)
        tokens = f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out"
        return f"teacher {self.model}: {self.requests:,} requests, {self.cached:,} cached, {tokens}{more}{cost}"

    def _exceptions(self) -> Iterable[tuple[int, str]]:
        counts = (self.retried, self.empty, self.cut, self.without_usage)
        return zip(counts, ("retried", "empty", "cut at max_tokens", "without a count of tokens"), strict=True)


@dataclass(kw_only=True)
class Tally:
    """Sums over replies."""

    replies: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    without_usage: int = 0
    empty: int = 0
    cut: int = 0

    def add(self, kept: Kept) -> None:
        """Count a reply, as it is in the cache."""
        request, reply = kept["request"], kept["reply"]
        told_input, told_output = reply["input_tokens"], reply["output_tokens"]
        self.replies += 1
        self.input_tokens += most_tokens(request["messages"]) if told_input is None else told_input
        self.output_tokens += request["max_tokens"] if told_output is None else told_output
        self.without_usage += told_input is None or told_output is None
        self.empty += not reply["text"]
        self.cut += reply["finish_reason"] == "length"


def over_budget(
    config: TeacherConfig, kept: Tally, running: Iterable[TeacherRequest], request: TeacherRequest
) -> ConfigError | None:
    """Why a request may not be sent; None if it may.

    Those under way and this one are taken to cost the most that they can.

    Args:
        config: The limits and prices.
        kept: All replies of the model that are in the cache.
        running: Requests under way.
        request: The next one.
    """
    requests = [*running, request]
    again = "; all replies so far are kept: raise it, and run the same command again"
    if config.max_requests is not None and kept.replies + len(requests) > config.max_requests:
        need = f"needs more than the {kept.replies:,} replies that are kept{again}"
        return ConfigError("teacher.max_requests", config.max_requests, need)
    spent = config.cost(kept.input_tokens, kept.output_tokens)
    most = config.cost(sum(most_tokens(one.messages) for one in requests), sum(one.max_tokens for one in requests))
    if config.max_cost is not None and spent + most > config.max_cost:
        need = f"needs more: {spent:,.6g} is spent, and the next request may cost up to {most:,.6g}{again}"
        return ConfigError("teacher.max_cost", config.max_cost, need)
    return None
