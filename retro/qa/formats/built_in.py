"""The public formats that come with the toolkit, as `retro sft convert` names them."""

from __future__ import annotations

from retro.qa.formats import chat as chats
from retro.qa.formats import short_answers
from retro.qa.formats.item import Format

alpaca = Format("instruction, input, output", chats.alpaca)
dolly = Format("instruction, context, response", chats.dolly, options=("passages",))
sharegpt = Format("conversations of human and gpt", chats.sharegpt, options=("turns",))
oasst = Format("trees of OpenAssistant, one per line", chats.oasst, options=("turns", "paths", "language"))
chat = Format("messages with role and content, as on HuggingFace", chats.chat_messages, options=("turns",))
squad = Format("SQuAD 1.1 and 2.0, with unanswerable questions", short_answers.squad, short_answers.walk_squad)
nq_open = Format("question, answer", short_answers.nq_open)
triviaqa = Format("TriviaQA's Data, answers with their aliases", short_answers.triviaqa, short_answers.walk_triviaqa)
hotpotqa = Format("HotpotQA, distractor setting, ten paragraphs each", short_answers.hotpotqa)
boolq = Format("question, passage, answer true or false", short_answers.boolq)
