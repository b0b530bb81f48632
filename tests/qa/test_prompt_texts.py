from __future__ import annotations

import logging
from pathlib import Path

import pytest

from retro.common.errors import ConfigError, DataError
from retro.qa.prompt_texts import load_prompts, shipped_prompts

OWN = """
name: lab
version: 7
kinds:
  short_span: {instruction: "Be brief."}
  haiku: {instruction: "Reply in 17 syllables."}
sets:
  poems: {kind: haiku, aliases: [Verse]}
  nq: {no_answer: "nobody knows"}
"""


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("BoolQ", "true_false"),
        ("boolq", "true_false"),
        ("NarrativeQA", "short_span"),
        ("DuoRC_ParaphraseRC", "short_span"),
        ("QASC", "short_span"),
        ("race", "options"),
        ("quac", "conversation"),
        ("quiet-cockatoo_commercial", "chat"),
        ("oasst-skip-noncode", "chat"),
        ("unnatural-instructions", "chat"),
        ("eli5_2", "full_answer"),
        ("natural_questions", "short_span"),
    ],
)
def test_sets_are_known_by_name_and_alias_in_any_case(name: str, kind: str) -> None:
    assert shipped_prompts().rule_of_set(name).kind == kind


def test_a_set_can_have_an_instruction_of_its_own() -> None:
    texts = shipped_prompts()
    drop, usual = texts.rule_of_set("DROP"), texts.rule_of_kind("short_span")
    assert "number" in drop.texts.instruction
    assert drop.texts.lead == usual.texts.lead
    # A kind that is asked for goes before what is known of the name.
    assert texts.rule_of_set("drop", "short_span") == usual


def test_an_unknown_set_is_asked_for_a_short_phrase_and_the_log_names_the_nearest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="retro"):
        assert shipped_prompts().rule_of_set("bolq").kind == "short_span"
        assert shipped_prompts().rule_of_set("our own questions").kind == "short_span"
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("bolq is not a known question set: asked as short_span (did you mean 'boolq'?)")
    assert (
        second
        == "our own questions is not a known question set: asked as short_span; `kind` in the blend says otherwise"
    )


def test_a_wrong_kind_of_a_set_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"sets.mine.kind = 'chta': is not a kind of answer; did you mean 'chat'"):
        shipped_prompts().rule_of_set("mine", "chta")


def test_a_file_of_ones_own_gives_only_what_differs(tmp_path: Path) -> None:
    texts = load_prompts(own(tmp_path, OWN))
    assert (texts.name, texts.version) == ("lab", 7)
    assert texts.rule_of_set("verse").texts.instruction == "Reply in 17 syllables."
    usual = shipped_prompts().kinds["short_span"]
    assert texts.kinds["short_span"] == usual.model_copy(update={"instruction": "Be brief."})
    nq = texts.rule_of_set("nq_open").texts
    assert (nq.instruction, nq.no_answer, nq.lead) == ("Be brief.", "nobody knows", usual.lead)
    assert texts.styles == shipped_prompts().styles


def test_the_identity_changes_with_any_text(tmp_path: Path) -> None:
    shipped = load_prompts(None).identity
    assert (shipped["name"], shipped["version"]) == ("shipped", 3)
    first = load_prompts(own(tmp_path, OWN)).identity
    # Forgotten to raise the version: the fingerprint tells.
    second = load_prompts(own(tmp_path, OWN.replace("brief", "short"))).identity
    assert (first["name"], first["version"]) == (second["name"], second["version"])
    assert len({shipped["fingerprint"], first["fingerprint"], second["fingerprint"]}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1", "has no 'name'. Give the file a name"),
        ("name: lab", "has no 'version'. Give the file a version"),
        ("name: lab\nversion: 1\nsets: [nq]", "has a list in 'sets'"),
        ("name: lab\nversion: 0", "version = 0: needs greater than 0"),
        ("name: lab\nversion: 1\nset: {}", "set = {}: is not a setting; did you mean 'sets'?"),
        (
            "name: lab\nversion: 1\nsets: {mine: {kind: shrt_span}}",
            "sets.mine.kind = 'shrt_span': is not a kind of answer",
        ),
        ("name: lab\nversion: 1\nsets: {mine: {kind: chat, aliases: [BOOLQ]}}", "found twice: boolq"),
        (
            "name: lab\nversion: 1\nkinds: {chat: {led: x}}",
            "kinds.chat.led = 'x': is not a setting; did you mean 'lead'?",
        ),
        (
            "name: lab\nversion: 1\nstyles: {plain: {question: 'Q:'}}",
            "styles.plain.question = 'Q:': needs {question} in it",
        ),
        (
            "name: lab\nversion: 1\nstyles: {plain: {context: '{title}'}}",
            "styles.plain.context = '{title}': needs {text}",
        ),
        (
            "name: lab\nversion: 1\nstyles: {plain: {turns: {user: '', system: '{text}', assistant: '{text}'}}}",
            "styles.plain.turns.user = '': needs {text} in it, once",
        ),
        ("name: lab\nversion: 1\ntemplates: {t: '{question}'}", "templates.t = '{question}': needs {passages}, and"),
    ],
)
def test_a_mistake_in_a_prompts_file_names_the_file_and_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = own(tmp_path, text)
    with pytest.raises(DataError) as caught:
        load_prompts(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
