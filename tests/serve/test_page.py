"""The page: whole and self-contained, and what somebody sees who uses it in a browser."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from retro.serve.app import page_policy, page_text
from retro.serve.config import ServeConfig
from tests.report.page_parser import Page
from tests.serve.chromium import Browser
from tests.serve.fake_engine import FakeEngine, fake_answer
from tests.serve.fake_server import fake_service
from tests.serve.running import running

KEY = "sk-0123456789"
ASKED = "question: Who?\nanswer:"


def answer(seed: int, tokens: int) -> str:
    return fake_answer(tuple(ASKED.encode()), seed).encode()[:tokens].decode(errors="ignore").lstrip()


def test_the_page_is_whole_and_loads_nothing() -> None:
    page = Page(re.sub(r"<(script|style)>.*?</\1>", "", page_text(), flags=re.DOTALL).replace("<input ", "<link "))
    assert page.open == []
    links = [value for _, given in page.elements for name, value in given.items() if name in ("src", "href", "action")]
    assert links == ["data:,"]
    assert not re.search(r"https?://|@import|url\(|innerHTML|insertAdjacentHTML|document\.write|eval\(", page_text())
    assert not re.search(r"<[^>]+ (on\w+|style)=", page_text())


def test_its_policy_lets_only_its_own_script_and_style_run() -> None:
    policy = page_policy("<style>a{}</style><script>1</script>")
    # sha256 of "1" and of "a{}", by `printf %s 1 | openssl dgst -sha256 -binary | base64`
    assert "script-src 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert "script-src 'none'; style-src 'none'" in page_policy("<p>")


def ready(page: Browser, url: str) -> None:
    page.session = ""
    page.messages.clear()
    page.open(f"{url}/")


def fill(page: Browser, name: str, text: str) -> None:
    page.evaluate(f"document.getElementById('{name}').focus()")
    page.evaluate(f"document.getElementById('{name}').select()")
    page.type(text)


def text_of(page: Browser, name: str) -> str:
    found: str = page.evaluate(f"document.getElementById('{name}').textContent")
    return found


def test_a_question_is_answered_chunk_by_chunk_with_passages_that_light_up(chromium: Browser) -> None:
    gate = threading.Event()
    with running(fake_service(open_engine=lambda: FakeEngine(gate=gate))) as server:
        ready(chromium, server.url)
        chromium.until("document.getElementById('name').textContent === 'fake'")
        assert text_of(chromium, "about") == "400 tokens of context, chunks of 16 tokens, 2 passages each"
        chromium.evaluate("document.getElementById('more').open = true")
        fill(chromium, "seed", "1")
        fill(chromium, "tokens", "40")
        fill(chromium, "question", "Who?")
        chromium.press("Enter", 13)
        chromium.until("document.getElementById('ask').disabled && !document.getElementById('stop').disabled")
        gate.set()
        chromium.until("document.getElementById('status').textContent.startsWith('40 tokens in')")
        assert text_of(chromium, "answer") == answer(1, 40)
        # The borders of chunks, where the server says they are: after 16 and 32 tokens.
        chunks = chromium.evaluate("[...document.querySelectorAll('.chunk')].map(one => one.textContent)")
        assert chunks == ["cobalt0 köln1 ", "köln2 birch3 k", answer(1, 40)[28:]]
        assert chromium.evaluate("document.querySelectorAll('.passage.lit').length") >= 2
        chips = chromium.evaluate(
            "[...document.querySelectorAll('.passage')].map(one => [one.querySelector('h3').textContent, "
            "[...one.querySelectorAll('.chip')].map(chip => chip.textContent).join()])"
        )
        assert chips[:2] == [["Page 0", chips[0][1]], ["Page 1", chips[1][1]]]
        assert chips[0][1].split(",")[0] == "1"
        assert sorted({number for _, numbers in chips for number in numbers.split(",")}) == ["1", "2", "3"]
        assert chromium.messages == []


def test_a_chunk_marks_its_passages_by_keyboard_and_keeps_them_marked(chromium: Browser) -> None:
    with running(fake_service()) as server:
        ready(chromium, server.url)
        chromium.until("document.getElementById('name').textContent === 'fake'")
        fill(chromium, "question", "Who?")
        chromium.press("Enter", 13)
        chromium.until("document.getElementById('status').textContent.includes('tokens in')")
        marked = (
            "[...document.querySelectorAll('.passage.on')].every(one => "
            "[...one.querySelectorAll('.chip')].some(chip => chip.textContent === '2')) && "
            "document.querySelectorAll('.passage.on').length"
        )
        chromium.evaluate("document.querySelectorAll('.chunk')[0].focus()")
        chromium.press("ArrowRight", 39)
        assert chromium.evaluate("document.activeElement.dataset.number") == "2"
        assert chromium.evaluate(marked) == 2
        chromium.press("Enter", 13)
        assert chromium.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
        chromium.evaluate("document.activeElement.blur()")
        assert chromium.evaluate(marked) == 2
        chromium.evaluate("document.querySelector('.chip').click(); document.querySelector('.chip').click()")
        assert chromium.evaluate("document.querySelectorAll('.passage.on').length") == 0


def test_escape_stops_an_answer_and_the_server_hears_of_it(chromium: Browser) -> None:
    engine = FakeEngine(step_seconds=0.02, words=400)
    with running(fake_service(open_engine=lambda: engine)) as server:
        ready(chromium, server.url)
        chromium.until("document.getElementById('name').textContent === 'fake'")
        fill(chromium, "question", "Who?")
        chromium.press("Enter", 13)
        chromium.until("document.getElementById('answer').textContent.length > 3")
        chromium.press("Escape", 27)
        chromium.until("document.getElementById('status').textContent === 'stopped'")
        chromium.until("!document.getElementById('ask').disabled")
        while server.service.work.unfinished:
            chromium.evaluate("new Promise(done => setTimeout(done, 10))")
        assert engine.steps < 200
        assert text_of(chromium, "problem") == ""


def test_a_key_is_asked_for_and_errors_are_shown(chromium: Browser) -> None:
    with running(fake_service(ServeConfig(api_key=KEY))) as server:
        ready(chromium, server.url)
        chromium.until("document.activeElement.id === 'key'")
        assert text_of(chromium, "problem").startswith("the API key is missing")
        chromium.type(KEY)
        chromium.press("Tab", 9)
        chromium.until("document.getElementById('name').textContent === 'fake'")
        assert text_of(chromium, "problem") == ""
        fill(chromium, "question", "break the step")
        chromium.press("Enter", 13)
        chromium.until("document.getElementById('status').textContent === 'failed'")
        assert text_of(chromium, "problem") == "the answer failed on the server; its log says why"
        chromium.evaluate("document.getElementById('source').value = 'given'")
        chromium.evaluate("document.getElementById('source').dispatchEvent(new Event('change'))")
        fill(chromium, "question", "Who?")
        chromium.press("Enter", 13)
        chromium.until("document.getElementById('problem').textContent.startsWith('retrieval.passages: is empty')")


def test_an_error_comes_into_view_below_open_settings(chromium: Browser, tmp_path: Path) -> None:
    with running(fake_service()) as server:
        ready(chromium, server.url)
        chromium.look(tmp_path / "seen.png", width=400, height=500)
        chromium.until("document.getElementById('name').textContent === 'fake'")
        chromium.evaluate("document.getElementById('more').open = true")
        fill(chromium, "question", "break the step")
        chromium.press("Enter", 13)
        chromium.until("document.getElementById('problem').textContent")
        top, bottom = chromium.evaluate(
            "(({top, bottom}) => [top, bottom])(document.getElementById('problem').getBoundingClientRect())"
        )
        assert 0 <= top < bottom <= 500


def test_what_comes_from_texts_is_text_and_no_markup(chromium: Browser) -> None:
    with running(fake_service()) as server:
        ready(chromium, server.url)
        chromium.until("document.getElementById('name').textContent === 'fake'")
        fill(chromium, "question", "<img src=x onerror=alert(1)>")
        chromium.press("Enter", 13)
        chromium.until("document.getElementById('status').textContent.includes('tokens in')")
        assert chromium.evaluate("document.querySelectorAll('img').length") == 0
        assert "<img src=x onerror" in text_of(chromium, "passages")
        assert chromium.messages == []


@pytest.mark.parametrize("width", [320, 760, 1400])
def test_nothing_is_wider_than_the_screen(chromium: Browser, width: int, tmp_path: Path) -> None:
    with running(fake_service()) as server:
        ready(chromium, server.url)
        chromium.until("document.getElementById('name').textContent === 'fake'")
        fill(chromium, "question", "W" * 90)
        chromium.press("Enter", 13)
        chromium.until("document.getElementById('status').textContent.includes('tokens in')")
        chromium.evaluate("document.getElementById('more').open = true")
        chromium.look(tmp_path / "seen.png", width=width, height=700, dark=width == 760)
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width
        assert (tmp_path / "seen.png").stat().st_size > 10_000
        chromium.evaluate("document.getElementById('theme').click()")
        assert chromium.evaluate("document.documentElement.dataset.theme") == ("light" if width == 760 else "dark")


@pytest.mark.parametrize(("dark", "theme"), [(False, ""), (True, ""), (False, "dark"), (True, "light")])
def test_words_stand_out_from_what_is_behind_them(chromium: Browser, dark: bool, theme: str, tmp_path: Path) -> None:
    with running(fake_service()) as server:
        ready(chromium, server.url)
        chromium.look(tmp_path / "seen.png", width=800, height=600, dark=dark)
        if theme:
            chromium.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        shades = "['ink', 'soft', 'accent', 'bad', 'c0', 'c1', 'c2', 'c3', 'c4', 'card']"
        found = chromium.evaluate(
            f"{shades}.map(name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim())"
        )
        *words, card = (luminance(colour) for colour in found)
        # 4.5 to 1 is what WCAG asks of text.
        assert min((max(word, card) + 0.05) / (min(word, card) + 0.05) for word in words) >= 4.5
        assert (card < 0.1) == (theme == "dark" or (dark and not theme))


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
