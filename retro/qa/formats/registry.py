"""The formats that can be converted, by the name that the user types."""

from __future__ import annotations

from retro.common.registry import Registry, registered_by_instance
from retro.qa.formats import chat as chats
from retro.qa.formats import conflicts, short_answers
from retro.qa.formats.item import Format

_BUILT_IN = (
    *("alpaca", "dolly", "sharegpt", "oasst", "chat"),
    *("squad", "nq_open", "triviaqa", "hotpotqa", "boolq"),
    *("conflictqa", "nq_swap", "faitheval_unanswerable", "faitheval_inconsistent", "faitheval_counterfactual"),
)

FORMATS: Registry[Format] = Registry(
    "retro.formats",
    "a known format",
    {name: f"retro.qa.formats.registry:{name}" for name in _BUILT_IN},
    registered_by_instance(Format, "a Format of retro.qa.formats.item"),
)
"""Every format, for `retro sft convert`."""


def find_format(name: str) -> Format:
    """The format of that name, in any case.

    Raises:
        ConfigError: There is none; the nearest is named, or all are.
        DependencyError: Another package brings it, and it cannot be loaded.
    """
    wanted = name.lower().replace("-", "_")
    return FORMATS.find(name if name in FORMATS else wanted, "FORMAT")


alpaca = Format("instruction, input, output", chats.alpaca)
dolly = Format("instruction, context, response", chats.dolly, options=("passages",))
sharegpt = Format("conversations of human and gpt", chats.sharegpt, options=("turns",))
oasst = Format("trees of OpenAssistant, one per line", chats.oasst, options=("turns", "paths", "language"))
chat = Format("messages with role and content, as on HuggingFace", chats.chat_messages, options=("turns",))
squad = Format(
    "SQuAD 1.1 and 2.0, with unanswerable questions",
    short_answers.squad,
    items="data[].paragraphs[].qas[]",
    outer=("title", "context"),
)
nq_open = Format("question, answer", short_answers.nq_open)
triviaqa = Format("TriviaQA's Data, answers with their aliases", short_answers.triviaqa, items="Data[]")
hotpotqa = Format("HotpotQA, distractor setting, ten paragraphs each", short_answers.hotpotqa)
boolq = Format("question, passage, answer true or false", short_answers.boolq)
conflictqa = Format("ConflictQA: passages for a model's answer and for another", conflicts.conflictqa)
nq_swap = Format("NQ-Swap: passages before and after the answer was replaced", conflicts.nq_swap)
faitheval_unanswerable = Format("FaithEval, the answer taken out of the context", conflicts.faitheval_unanswerable)
faitheval_inconsistent = Format("FaithEval, documents that contradict one another", conflicts.faitheval_inconsistent)
faitheval_counterfactual = Format(
    "FaithEval, choices and a context for a wrong one", conflicts.faitheval_counterfactual
)
