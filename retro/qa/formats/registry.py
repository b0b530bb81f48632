"""The formats that can be converted, by the name that the user types."""

from __future__ import annotations

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.qa.formats import chat, short_answers
from retro.qa.formats.item import Format

FORMATS: dict[str, Format] = {
    "alpaca": Format("instruction, input, output", chat.alpaca),
    "dolly": Format("instruction, context, response", chat.dolly, options=("passages",)),
    "sharegpt": Format("conversations of human and gpt", chat.sharegpt, options=("turns",)),
    "oasst": Format("trees of OpenAssistant, one per line", chat.oasst, options=("turns", "paths", "language")),
    "chat": Format("messages with role and content, as on HuggingFace", chat.chat_messages, options=("turns",)),
    "squad": Format("SQuAD 1.1 and 2.0, with unanswerable questions", short_answers.squad, short_answers.walk_squad),
    "nq_open": Format("question, answer", short_answers.nq_open),
    "triviaqa": Format(
        "TriviaQA's Data, answers with their aliases", short_answers.triviaqa, short_answers.walk_triviaqa
    ),
    "hotpotqa": Format("HotpotQA, distractor setting, ten paragraphs each", short_answers.hotpotqa),
    "boolq": Format("question, passage, answer true or false", short_answers.boolq),
}


def find_format(name: str) -> Format:
    """The format of that name, in any case.

    Raises:
        ConfigError: There is none; the nearest is named.
    """
    wanted = name.lower().replace("-", "_")
    if wanted not in FORMATS:
        raise ConfigError("FORMAT", name, unknown_name(wanted, list(FORMATS)).replace("a setting", "a known format"))
    return FORMATS[wanted]
