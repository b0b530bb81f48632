from __future__ import annotations

import pytest

from retro.common.errors import ConfigError
from retro.qa.prompt_texts import shipped_prompts
from retro.qa.prompts import (
    answer_text,
    build_prompt,
    kind_of_set,
    lettered_options,
    render_passages,
    require_kind,
    shown_order,
)
from retro.qa.question import Context, PassageOrder, Question, Turn

ASKED = Question(id="0", question="Who wrote it?", answers=("Ada",))
PASSAGES = (Context("Notes", "Ada wrote {text}."), Context("", "Babbage built it."))


def test_the_plain_prompt_is_only_the_question() -> None:
    prompt = build_prompt(ASKED, PASSAGES, style="plain", kind="short_span", contexts_in_prompt=0)
    assert prompt.text == "question: Who wrote it?\nanswer:"


def test_the_plain_prompt_shows_as_many_passages_as_asked() -> None:
    prompt = build_prompt(ASKED, PASSAGES, style="plain", kind="short_span", contexts_in_prompt=2)
    assert prompt.contexts == ("Notes: Ada wrote {text}.\n", "Babbage built it.\n")


@pytest.mark.parametrize(
    ("order", "ranks"),
    [("best_first", [0, 1, 2, 3, 4]), ("best_last", [4, 3, 2, 1, 0]), ("best_at_ends", [0, 2, 4, 3, 1])],
)
def test_passages_stand_in_the_order_asked_for(order: PassageOrder, ranks: list[int]) -> None:
    assert shown_order(5, order) == ranks
    passages = [Context("", str(rank)) for rank in range(5)]
    prompt = build_prompt(ASKED, passages, style="plain", kind="short_span", contexts_in_prompt=5, order=order)
    assert prompt.contexts == tuple(f"{rank}\n" for rank in ranks)
    assert prompt.ranks == tuple(ranks)


def test_passages_are_numbered_as_they_stand_and_a_title_is_no_pattern() -> None:
    form = shipped_prompts().styles["plain"].model_copy(update={"context": "{number}. {title}: {text}"})
    passages = [Context("A {number}", "b"), Context("C", "d {number}")]
    assert render_passages(form, passages, "best_last") == ("1. C: d {number}\n", "2. A {number}: b\n")


def test_a_tiny_prompt_does_not_repeat_a_title_that_the_text_begins_with() -> None:
    passages = (Context("os.path", "os.path joins names."),)
    plain = build_prompt(ASKED, passages, style="plain", kind="short_span", contexts_in_prompt=1)
    assert plain.contexts == ("os.path joins names.\n",)
    full = build_prompt(ASKED, passages, style="instructretro", kind="short_span", contexts_in_prompt=1)
    assert full.contexts == ("title: os.path, source: os.path joins names.\n\n",)


def test_the_instruction_prompt_has_preamble_passages_user_and_assistant() -> None:
    prompt = build_prompt(ASKED, PASSAGES, style="instructretro", kind="short_span", contexts_in_prompt=1)
    preamble, passage, user, assistant = prompt.text.split("\n\n")
    assert preamble.startswith("System: ")
    assert passage == "title: Notes, source: Ada wrote {text}."
    assert user.startswith("User: ")
    assert user.endswith(" Who wrote it?")
    assert assistant == "Assistant: The answer is"


def test_a_full_answer_is_not_begun_for_the_model() -> None:
    prompt = build_prompt(ASKED, (), style="instructretro", kind="full_answer", contexts_in_prompt=1)
    assert prompt.text.endswith("\n\nAssistant:")


def test_a_conversation_is_used_as_it_is() -> None:
    prompt = build_prompt(ASKED, (), style="instructretro", kind="conversation", contexts_in_prompt=1)
    assert prompt.tail == "User: Who wrote it?\n\nAssistant:"


def test_chat_shows_no_passages() -> None:
    prompt = build_prompt(ASKED, PASSAGES, style="instructretro", kind="chat", contexts_in_prompt=2)
    assert prompt.contexts == ()


TALK = (Turn("user", "Hi."), Turn("assistant", "Hello {text}."))


def test_what_was_said_before_stands_between_passages_and_question() -> None:
    asked = Question(id="0", question="Who wrote it?", answers=("Ada",), turns=TALK)
    prompt = build_prompt(asked, PASSAGES, style="instructretro", kind="full_answer", contexts_in_prompt=1)
    _, passage, *turns, last, end = prompt.text.split("\n\n")
    assert passage == "title: Notes, source: Ada wrote {text}."
    assert turns == ["User: Hi.", "Assistant: Hello {text}."]
    assert last.endswith("full and complete answer. Who wrote it?")
    assert end == "Assistant:"
    plain = build_prompt(asked, PASSAGES, style="plain", kind="chat", contexts_in_prompt=1)
    assert plain.text == "question: Hi.\nanswer: Hello {text}.\nquestion: Who wrote it?\nanswer:"


def test_a_system_turn_stands_in_place_of_the_preamble() -> None:
    asked = Question(id="0", question="Who?", answers=("Ada",), turns=(Turn("system", "Be kind."),))
    prompt = build_prompt(asked, (), style="instructretro", kind="chat", contexts_in_prompt=0)
    assert prompt.text == "System: Be kind.\n\nUser: Who?\n\nAssistant:"


@pytest.mark.parametrize(
    ("question", "tail"),
    [
        ("User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:", "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:"),
        ("User: a\n\nAssistant: b\n\nUser: c", "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:"),
        ("a", "User: a\n\nAssistant:"),
    ],
)
def test_a_conversation_that_is_written_out_is_used_as_it_is(question: str, tail: str) -> None:
    asked = Question(id="0", question=question, answers=("x",))
    assert build_prompt(asked, (), style="instructretro", kind="chat", contexts_in_prompt=0).tail == tail
    short = build_prompt(asked, (), style="instructretro", kind="full_answer", contexts_in_prompt=0)
    assert short.tail.startswith("User: Reply to the question below")


@pytest.mark.parametrize("name", sorted(shipped_prompts().templates))
def test_every_template_has_passages_and_question_in_the_users_turn(name: str) -> None:
    prompt = build_prompt(
        ASKED, PASSAGES, style="instructretro", kind="short_span", contexts_in_prompt=2, template=name
    )
    assert prompt.head.split("\n\n")[1].startswith("User: ")
    assert len(prompt.contexts) == 2
    assert prompt.tail.endswith("Who wrote it?\n\nAssistant: The answer is")
    assert "short phrase" not in prompt.text


def test_seven_templates_are_shipped_and_none_reads_as_another() -> None:
    texts = {
        build_prompt(ASKED, PASSAGES, style="plain", kind="short_span", contexts_in_prompt=1, template=name).text
        for name in shipped_prompts().templates
    }
    assert len(texts) == 7


def test_a_template_keeps_the_instruction_that_says_how_to_answer() -> None:
    prompt = build_prompt(ASKED, (), style="instructretro", kind="true_false", contexts_in_prompt=0, template="reply")
    assert "Reply to this: Say whether the following is True or False. Who wrote it?" in prompt.tail


def test_options_are_lettered_on_a_line_of_their_own() -> None:
    asked = Question(id="0", question="Which?", answers=("red",), options=("red", "blue"))
    prompt = build_prompt(asked, (), style="plain", kind="options", contexts_in_prompt=0)
    assert prompt.text == "question: Which?\n(A) red (B) blue\nanswer:"


def test_letters_go_on_after_z() -> None:
    assert lettered_options(["x"] * 28, shipped_prompts().styles["plain"]).endswith("(Z) x (AA) x (AB) x")


def test_kinds_are_looked_up_in_any_case() -> None:
    assert kind_of_set("BoolQ") == kind_of_set("boolq") == "true_false"
    assert kind_of_set("never heard of") == "short_span"


def test_a_wrong_kind_is_answered_with_the_nearest() -> None:
    assert require_kind("kind", "chat") == "chat"
    with pytest.raises(ConfigError, match="kind = 'short_spam': is not a kind of answer; did you mean 'short_span'"):
        require_kind("kind", "short_spam")


def test_an_answer_follows_after_one_space() -> None:
    assert answer_text("Ada") == " Ada"
