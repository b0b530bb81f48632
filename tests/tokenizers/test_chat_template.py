"""A chat template writes the ids that transformers writes, except where a message spells a special token."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.tokenizers.chat_template import ChatTemplate, Message, open_chat
from retro.tokenizers.conventions import CONVENTIONS, load_conventions, write_conventions
from retro.tokenizers.tokenizer import conventions_of, load_tokenizer, save_tokenizer
from tests.tokenizers.chat_folders import KINDS, make_folder

PIECES = [
    "What is the capital of Italy?",
    "  two spaces before, and after  ",
    "\n\nnew lines\n",
    "",
    "\t",
    "Grüße aus 東京, naïve 🙂 e\u0301 ﬁ",
    "a < b, [x], <|, </",
    "ends in a <",
    "code:\n```\nfor i in x:\n    print(i)\n```",
    "<think>non-special added token</think>",
    "x" * 300,
    "\u00a0no-break\u200bzero\ufeff",
]


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    """A folder of that kind, with our own copy in `saved`."""
    save(tmp_path, kind)
    return tmp_path


def save(folder: Path, kind: str) -> None:
    (folder / "saved").mkdir(parents=True)
    save_tokenizer(make_folder(folder, kind), "huggingface", folder / "saved")


def chat_of(folder: Path) -> ChatTemplate:
    return open_chat(load_tokenizer(folder / "saved"), "generate.style")


def conversations(kind: str, count: int) -> list[list[Message]]:
    """Conversations of one to five turns that the template takes."""
    draw, found = random.Random(7), []
    for number in range(count):
        turns = 1 + 2 * draw.randrange(3)
        one: list[Message] = [
            {"role": ("user", "assistant")[at % 2], "content": draw.choice(PIECES) + draw.choice(PIECES)}
            for at in range(turns)
        ]
        if kind in ("chatml", "llama3") and number % 3 == 0:
            one.insert(0, {"role": "system", "content": draw.choice(PIECES)})
        found.append(one)
    return found


def theirs(folder: Path) -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(folder))


def test_ids_are_those_of_transformers(folder: Path, kind: str) -> None:
    chat, other = chat_of(folder), theirs(folder)
    for messages in conversations(kind, 60):
        for begin in (True, False):
            wanted = other.apply_chat_template(messages, add_generation_prompt=begin, tokenize=True, return_dict=False)
            assert chat.encode(messages, begin_answer=begin).ids == wanted
            assert chat.render(messages, begin_answer=begin) == other.apply_chat_template(
                messages, add_generation_prompt=begin, tokenize=False
            )


def test_the_way_for_spelled_tokens_gives_the_same_ids_where_none_is_spelled(folder: Path, kind: str) -> None:
    chat, other = chat_of(folder), theirs(folder)
    for messages in conversations(kind, 60):
        text = chat.render(messages, begin_answer=True)
        assert chat._shield.encode(text, {}).ids == other.encode(text, add_special_tokens=False)


def test_a_special_token_that_a_message_spells_is_text(folder: Path, kind: str) -> None:
    chat, tokenizer = chat_of(folder), load_tokenizer(folder / "saved")
    specials = KINDS[kind].special
    count = len([id_ for id_ in chat.encode(ask("hello"), begin_answer=True).ids if id_ < len(specials)])
    for special in specials:
        for content in (special, f"a{special}b", f"{special}{special} tail", f"x {special[:-1]}", special * 3):
            found = chat.encode(ask(content), begin_answer=True).ids
            assert sum(id_ < len(specials) for id_ in found) == count
            assert content in tokenizer.decode([id_ for id_ in found if id_ >= len(specials)])


def test_a_token_begun_in_one_message_is_not_ended_by_the_next(tmp_path: Path) -> None:
    save(tmp_path, "mistral")
    saved = tmp_path / "saved"
    bare = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    write_conventions(with_template(saved, bare), saved)
    found = chat_of(tmp_path).encode([*ask("go </"), {"role": "assistant", "content": "s> on"}], begin_answer=True)
    assert all(id_ >= 5 for id_ in found.ids)


def test_merges_run_over_the_border_of_a_spelled_token_s_neighbors(tmp_path: Path) -> None:
    # " capital" is one token; cut anywhere near the spelled token it would be two.
    save(tmp_path, "llama3")
    chat, tokenizer = chat_of(tmp_path), load_tokenizer(tmp_path / "saved")
    content = "the capital <|eot_id|> the capital"
    found = chat.encode(ask(content), begin_answer=True).ids
    inner = tokenizer.encode("\n\n" + content)
    assert any(found[at : at + len(inner)] == inner for at in range(len(found)))
    assert inner.count(tokenizer.encode(" capital")[0]) == 2


def ask(content: str) -> list[Message]:
    return [{"role": "user", "content": content}]


def with_template(saved: Path, template: str) -> Any:
    from dataclasses import replace

    return replace(load_conventions(saved), chat_template=template)


def test_an_answer_is_what_follows_the_prompt_up_to_the_end_of_the_turn(folder: Path, kind: str) -> None:
    chat, tokenizer = chat_of(folder), load_tokenizer(folder / "saved")
    ends = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "mistral": "</s>", "gemma": "<end_of_turn>"}
    for messages in conversations(kind, 30):
        ids, end = chat.answer(messages, "It is Rome.")
        assert KINDS[kind].special[end] == ends[kind]
        assert tokenizer.decode(ids).strip() == "It is Rome."
        asked = chat.encode(messages, begin_answer=True).ids
        whole = chat.encode([*messages, {"role": "assistant", "content": "It is Rome."}], begin_answer=False).ids
        # In these bytes two line ends before a word are two tokens, and at the end of a prompt one: the prompt stays as
        # generation sees it.
        if kind == "llama3":
            assert tokenizer.decode([*asked, *ids, end]) == tokenizer.decode(whole)
        else:
            assert [*asked, *ids, end] == whole[: len(asked) + len(ids) + 1]
    assert KINDS[kind].special[chat.turn_end] == ends[kind]


def test_whether_a_template_takes_a_system_turn(folder: Path, kind: str) -> None:
    assert chat_of(folder).takes_system == (kind in ("chatml", "llama3"))


def test_a_refusal_is_one_line_with_the_file_and_the_template_s_words(tmp_path: Path) -> None:
    save(tmp_path, "gemma")
    with pytest.raises(DataError) as caught:
        chat_of(tmp_path).encode([{"role": "system", "content": "x"}], begin_answer=True)
    assert str(caught.value).startswith(f"{tmp_path / 'saved' / CONVENTIONS}: its chat template cannot write this")
    assert "(System role not supported)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ 'a' * 10**9 }}", "multiplies a text"),
        ("{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}", "writes more than 16,777,216"),
        ("{{ 9 ** 999999 }}", "a power that is too large"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{{ nothing.there }}", "'nothing' is undefined"),
    ],
)
def test_a_template_that_misbehaves_is_one_error(template: str, words: str, tmp_path: Path) -> None:
    save(tmp_path, "chatml")
    write_conventions(with_template(tmp_path / "saved", template), tmp_path / "saved")
    with pytest.raises(DataError, match=words):
        chat_of(tmp_path).encode(ask("x"), begin_answer=True)


def test_a_text_that_is_no_template_is_one_error(tmp_path: Path) -> None:
    save(tmp_path, "chatml")
    write_conventions(with_template(tmp_path / "saved", "{% for"), tmp_path / "saved")
    with pytest.raises(DataError, match="its chat template is none"):
        chat_of(tmp_path)


def test_what_huggingface_s_environment_has_is_there(tmp_path: Path) -> None:
    save(tmp_path, "chatml")
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content | tojson }}{% endgeneration %}{% endfor %}\n"
        "  {% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}{{ strftime_now('%Y') | length }}"
        "{{ tools is none }}{{ unk_token }}"
    )
    write_conventions(with_template(tmp_path / "saved", template), tmp_path / "saved")
    text = chat_of(tmp_path).render([{"role": "system", "content": "s"}, *ask('<é & "x">')], begin_answer=True)
    assert text == '"<é & \\"x\\">"24True'
    other = theirs(tmp_path)
    messages = [{"role": "system", "content": "s"}, *ask('<é & "x">')]
    assert other.apply_chat_template(messages, chat_template=template, tokenize=False) == text


def test_no_template_and_no_tokenizer_json_are_named(tmp_path: Path) -> None:
    file = make_folder(tmp_path, "chatml")
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "saved").mkdir()
    tokenizer = save_tokenizer(file, "huggingface", tmp_path / "saved")
    with pytest.raises(ConfigError, match=r"generate\.style = 'chat': needs a tokenizer with a chat template"):
        open_chat(tokenizer, "generate.style")


def test_what_a_folder_says_is_read_once(tmp_path: Path) -> None:
    save(tmp_path, "llama3")
    found = conventions_of(load_tokenizer(tmp_path / "saved"))
    assert dict(found.tokens) == {"eos_token": "<|end_of_text|>", "bos_token": "<|begin_of_text|>"}
    assert dict(found.ids) == {"eos_token": 1, "bos_token": 0}
    assert (found.prefix, found.suffix, found.ends) == ((0,), (), (1, 4))
    assert (found.model_max_length, found.chat_template) == (8192, KINDS["llama3"].template)
    assert json.loads((tmp_path / "saved" / CONVENTIONS).read_text())["ends"] == [1, 4]


def test_the_prefix_is_what_transformers_adds(folder: Path, kind: str) -> None:
    ours, other = load_tokenizer(folder / "saved"), theirs(folder)
    for text in ("What is it?", " a", "b"):
        assert [*conventions_of(ours).prefix, *ours.encode(text)] == other.encode(text)
    assert bool(conventions_of(ours).prefix) == (kind != "chatml")
