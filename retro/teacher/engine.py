"""Replies from a model of this toolkit, in this process: many at once, in one engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from retro.common.errors import ConfigError, RetroError
from retro.generate.request import Completion, Engine, Request, Sampling
from retro.qa.question import Question, Role, Turn
from retro.teacher.request import RefusedError, Reply, TeacherRequest
from retro.tokenizers.chat_template import Message

if TYPE_CHECKING:
    from retro.generate.config import GenerateConfig
    from retro.qa.prompt_texts import PromptTexts
    from retro.run.config import RunConfig

Encode = Callable[[Sequence[Message]], list[int]]
"""From a conversation to the token ids of a prompt, the assistant's turn begun."""


class EngineBackend:
    """Replies with an engine, which is opened when the first request comes."""

    def __init__(
        self, open_engine: Callable[[], tuple[Engine, Encode]], *, model: str, identity: Mapping[str, Any], at_once: int
    ) -> None:
        """Set up.

        Args:
            open_engine: Gives the engine, and what encodes for it.
            model: What the model is called.
            identity: Its weights, and what else shapes replies.
            at_once: Requests answered at once.
        """
        self.model, self.identity, self.at_once = model, identity, at_once
        self._open = open_engine

    @cached_property
    def _opened(self) -> tuple[Engine, Encode]:
        return self._open()

    def submit(self, request: TeacherRequest) -> int:
        """Take a request in.

        Raises:
            RefusedError: The prompt does not fit the model.
            DataError: The model's chat template refuses the conversation.
            RetroError: The engine cannot be opened.
        """
        engine, encode = self._opened
        sampling = Sampling(
            temperature=request.temperature, max_new_tokens=request.max_tokens, stop=request.stop, seed=request.seed
        )
        try:
            return engine.submit(Request(prompt=encode(request.messages), sampling=sampling))
        except ConfigError as error:
            raise RefusedError(error.setting, error.value, error.need) from None

    def wait(self) -> list[tuple[int, Reply | RetroError]]:
        """Choose tokens until a reply is complete."""
        done: list[tuple[int, Reply | RetroError]] = []
        while not done:
            events = self._opened[0].step()
            done = [(number, _reply(event.completion)) for number, event in events if event.completion is not None]
        return done

    def close(self) -> None:
        """Nothing runs without a step."""


def _reply(completion: Completion) -> Reply:
    return Reply(
        # A model has one leading space to say before an answer.
        text=completion.text.removeprefix(" "),
        input_tokens=completion.prompt_tokens,
        output_tokens=len(completion.tokens),
        finish_reason="length" if completion.ended == "length" else "stop",
    )


def open_run(run: RunConfig, at_once: int) -> EngineBackend:
    """The tuned model of a run, or `generate.checkpoint`, asked without passages: these stand in a teacher's prompts.

    Args:
        run: Its settings.
        at_once: Requests answered at once.

    Raises:
        ConfigError: The run's settings do not fit the model.
        ArtifactError: The run has no tuned model, or it is damaged.
    """
    from retro.generate.open_model import open_model
    from retro.qa.prompt_texts import load_prompts
    from retro.run.pipeline import model_paths
    from retro.training import checkpoint

    texts = load_prompts(run.generate.prompts)
    alone = {"settings": ("closed_book",), "encoder": False, "batch_size": at_once}
    generate = run.generate.model_copy(update=alone)
    model = open_model(generate, model_paths(run))

    def opened() -> tuple[Engine, Encode]:
        engine = model.engine
        return engine, conversation_encoder(model.tokenizer, generate, texts, model.prefix)

    # Not the precision: replies that are there stay when work continues on another machine.
    identity: dict[str, Any] = {"checkpoint": checkpoint.identity(model.info.path), "prompts": texts.identity}
    identity |= {"style": generate.style, "add_special_tokens": generate.add_special_tokens}
    return EngineBackend(opened, model=run.run_dir.resolve().name, identity=identity, at_once=at_once)


def conversation_encoder(tokenizer: Any, generate: GenerateConfig, texts: PromptTexts, prefix: Sequence[int]) -> Encode:
    """Encodes conversations as the model was tuned on them, by the code that tunes."""
    from retro.qa.chat_prompts import STYLE, build_chat, chat_of, encode_chats
    from retro.qa.prompts import build_prompt, encode_prompts

    rule = texts.rule_of_kind("conversation")

    def encode(messages: Sequence[Message]) -> list[int]:
        turns = tuple(Turn(_ROLES[one["role"]], one["content"]) for one in messages[:-1])
        question = Question(id="", question=messages[-1]["content"], answers=(), turns=turns)
        if generate.style == STYLE:
            template = chat_of(tokenizer, "generate.style")
            system = template.takes_system
            chat = build_chat(question, (), rule=rule, contexts_in_prompt=0, takes_system=system, texts=texts)
            ids = encode_chats([chat], template)[0]
        else:
            style = generate.style
            prompt = build_prompt(question, (), style=style, kind=rule, contexts_in_prompt=0, texts=texts)
            ids = encode_prompts([prompt], tokenizer, prefix)[0]
        return [*ids.head, *ids.tail]

    return encode


_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
