"""The text around a question: preamble, passages, earlier turns, question, and where the answer begins.

The texts are data (`prompts.yaml`, read by `prompt_texts`), so a set is added without code. A prompt stays in three
parts (head, passages, tail) because only the passages may be cut when it does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.qa.passages import Encoder
from retro.qa.prompt_texts import DEFAULT_KIND, PromptTexts, Rule, StyleTexts, shipped_prompts
from retro.qa.question import PassageLike, PassageOrder, Question, Turn
from retro.qa.sample_layout import PromptIds

Style = Literal["plain", "instructretro", "chat"]


@dataclass(frozen=True)
class Prompt:
    """One prompt in the parts that are tokenized apart and joined as ids."""

    head: str
    contexts: tuple[str, ...]
    tail: str
    ranks: tuple[int, ...] = ()
    """Rank of each passage, 0 the best: what does not fit is cut from the worst. Empty: best first."""
    separator: str = ""
    """What ends each passage, also one that is cut."""

    @property
    def text(self) -> str:
        """The whole prompt, nothing cut."""
        return self.head + "".join(self.contexts) + self.tail


def prompts_version() -> int:
    """Version of the shipped prompt texts; part of every fingerprint that depends on them."""
    return shipped_prompts().version


def known_kinds() -> tuple[str, ...]:
    """All kinds of answer that the shipped texts know."""
    return tuple(shipped_prompts().kinds)


def kind_of_set(name: str) -> str:
    """The kind of a question set, by its name in any case; `short_span` for a set that is not known."""
    known = shipped_prompts().known_set(name)
    return DEFAULT_KIND if known is None else known.kind


def require_kind(setting: str, kind: str) -> str:
    """Return `kind` if it exists.

    Raises:
        ConfigError: It does not; `setting` and the nearest kind are named.
    """
    return shipped_prompts().rule_of_kind(kind, setting).kind


def require_template(setting: str, name: str, texts: PromptTexts) -> str:
    """Return the name of a template if it exists, or is empty.

    Raises:
        ConfigError: It does not; `setting` and the nearest template are named.
    """
    if name and name not in texts.templates:
        need = unknown_name(name, list(texts.templates)).replace("a setting", "a template")
        raise ConfigError(setting, name, need)
    return name


def shown_order(count: int, order: PassageOrder) -> list[int]:
    """Ranks of passages, 0 the best, in the order in which a prompt shows them."""
    ranks = list(range(count))
    if order == "best_last":
        return ranks[::-1]
    return ranks[::2] + ranks[1::2][::-1] if order == "best_at_ends" else ranks


def build_prompt(
    question: Question,
    passages: Sequence[PassageLike],
    *,
    style: Style,
    kind: str | Rule,
    contexts_in_prompt: int,
    texts: PromptTexts | None = None,
    template: str = "",
    order: PassageOrder = "best_first",
) -> Prompt:
    """The prompt of one question.

    Args:
        question: The question, with what was said before it, and its options if it has any.
        passages: Candidates for the prompt, best first.
        style: `instructretro`, or `plain` for tiny models. `chat` is written by `retro.qa.chat_prompts`.
        kind: A kind, or what `PromptTexts.rule_of_set` gave for the question's set.
        contexts_in_prompt: How many passages to show at most.
        texts: The prompt texts; absent: the shipped ones.
        template: One of their templates, in place of the usual order of passages and instruction.
        order: How the passages stand.
    """
    known = texts or shipped_prompts()
    form = known.styles[style]
    rule = kind if isinstance(kind, Rule) else known.rule_of_kind(kind)
    shown = passages[:contexts_in_prompt] if rule.texts.contexts else ()
    asked = asked_text(question, rule, form, template)
    before, after = known.templates[template].split("{passages}", 1) if template else ("", "{question}")
    opening, closing = _last_turn(form, rule, asked)
    # The passages stand before the whole conversation; with a template, inside its last turn.
    turns = _earlier(form, question.turns)
    head, tail = (turns + opening + before, "") if template else ("", turns + opening)
    lead = rule.texts.lead if form.instructions else ""
    return Prompt(
        head=_preamble(form, question.turns) + head,
        contexts=render_passages(form, shown, order),
        tail=tail + after.replace("{question}", asked) + closing + lead,
        ranks=tuple(shown_order(len(shown), order)),
        separator=form.separator,
    )


def asked_text(question: Question, rule: Rule, form: StyleTexts, template: str) -> str:
    """What is asked: instruction, question and options."""
    wanted = form.instructions and (rule.texts.in_template or not template)
    instruction = f"{rule.texts.instruction} " if wanted and rule.texts.instruction else ""
    return instruction + question.question + lettered_options(question.options, form)


def _last_turn(form: StyleTexts, rule: Rule, asked: str) -> tuple[str, str]:
    """What is around the question in its turn; nothing that the question has already."""
    opening, _, closing = form.question.partition("{question}")
    if rule.texts.holds_turns:
        if asked.startswith(opening.strip()):
            opening = ""
        if asked.endswith(closing.strip()):
            closing = ""
    return opening, closing


def _preamble(form: StyleTexts, turns: Sequence[Turn]) -> str:
    """The style's preamble; a conversation that begins with a system turn of its own has that instead."""
    own = bool(turns) and turns[0].role == "system"
    return form.preamble + form.separator if form.preamble and not own else ""


def _earlier(form: StyleTexts, turns: Sequence[Turn]) -> str:
    ways = form.turns.model_dump()
    return "".join(ways[turn.role].replace("{text}", turn.text) + form.separator for turn in turns)


def render_passages(form: StyleTexts, passages: Sequence[PassageLike], order: PassageOrder) -> tuple[str, ...]:
    """Passages as a prompt shows them, each with the separator behind it.

    Args:
        form: The style.
        passages: Best first.
        order: How they stand.
    """
    ranks = shown_order(len(passages), order)
    return tuple(_render(form, passages[rank], number) + form.separator for number, rank in enumerate(ranks, start=1))


def _render(form: StyleTexts, passage: PassageLike, number: int) -> str:
    titled = passage.title and (form.repeats_title or not passage.text.startswith(passage.title))
    template = form.context if titled else form.untitled_context
    # One pass over the template: a passage that happens to hold "{text}" must stay as it is.
    before, _, after = template.partition("{text}")
    return before.replace("{number}", str(number)).replace("{title}", passage.title) + passage.text + after


def lettered_options(options: Sequence[str], form: StyleTexts) -> str:
    """`(A) red (B) blue` from a new line on, in the style's form; empty without options."""
    if not options:
        return ""
    before, _, after = form.option.partition("{text}")
    shown = [
        before.replace("{letter}", _letter(number)) + option + after.replace("{letter}", _letter(number))
        for number, option in enumerate(options)
    ]
    return "\n" + form.between_options.join(shown)


def _letter(number: int) -> str:
    # 26 and up: AA, AB, … as in a spreadsheet.
    tail = chr(ord("A") + number % 26)
    return tail if number < 26 else _letter(number // 26 - 1) + tail


def answer_text(answer: str) -> str:
    """The answer as it follows the prompt: one space before it."""
    return f" {answer}"


def encode_prompts(prompts: Sequence[Prompt], tokenizer: Encoder, prefix: Sequence[int] = ()) -> list[PromptIds]:
    """Token ids of prompts, part by part, in one call of the tokenizer, each begun with `prefix`."""
    parts = [part for prompt in prompts for part in (prompt.head, *prompt.contexts, prompt.tail, prompt.separator)]
    encoded = iter(tokenizer.encode_batch(parts) if parts else [])
    result = []
    for prompt in prompts:
        head = [*prefix, *next(encoded)]
        contexts = [next(encoded) for _ in prompt.contexts]
        result.append(PromptIds(head, contexts, next(encoded), prompt.ranks, next(encoded)))
    return result
