"""The page in a real browser: Chromium without a window, against a real server on loopback."""

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import serving

from edgert.answering.reply import Chunk
from edgert.batch.setup import Setup
from edgert.bundle import open_bundle
from edgert.serve.app import Policy
from edgert.serve.desk import Answering
from edgert.serve.models import Served

pytestmark = pytest.mark.page
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HELD_AFTER = 8
PHONE = {"width": 360, "height": 740}
expect = sync_api.expect


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served(bundles: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    monkeypatch.setenv("EDGERT_STATE", str(tmp_path))
    folder = bundles()
    return Served("tiny", open_bundle(folder), Setup(str(folder), conversations=2), {"max_tokens": 12})


def is_wrong(line: Any) -> bool:
    """Of the console; a refusal by the server isn't, the page tells it."""
    return line.type == "error" and not line.text.startswith("Failed to load resource")


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page, whose errors and breaches of the policy fail the test."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **options)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if is_wrong(line) else None)
    page.goto(url)
    expect(page.locator("#model option")).to_have_count(1)
    yield page
    context.close()
    assert not wrong, wrong


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    with serving(served) as (url, _), opened(browser, url) as page:
        yield page


class Gate:
    """Holds answers after some chunks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.held, self.left = threading.Event(), threading.Event(), threading.Event()
        chunks, gate = Answering.chunks, self

        async def held_chunks(answering: Answering) -> AsyncIterator[Chunk]:
            number = 0
            try:
                async for chunk in chunks(answering):
                    yield chunk
                    number += 1
                    while number == HELD_AFTER and not gate.open.is_set():
                        gate.held.set()
                        await asyncio.sleep(0.01)
            finally:
                gate.left.set()

        monkeypatch.setattr(Answering, "chunks", held_chunks)


def ask(page: Any, text: str) -> None:
    page.fill("#question", text)
    page.press("#question", "Enter")


def asked(page: Any, text: str) -> str:
    """The whole answer's text."""
    before = page.locator(".answer").count()
    ask(page, text)
    expect(page.locator(".answer")).to_have_count(before + 1)
    expect(page.locator(".answer .actions").last).to_be_visible()
    return str(page.locator(".answer .body").last.inner_text())


def play(page: Any, *events: dict[str, Any]) -> None:
    """Answer the next questions with these events instead of the model's."""
    ended = {"end": {"reason": "stop", "answer_tokens": 1, "tokens_per_s": 1, "first_token_s": 1}}
    ended["end"] |= {"context_used": 50, "context": 100, "left_out": 0}
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in ({"session": "s"}, *events, ended))
    page.route("**/talk/ask", lambda route: route.fulfill(body=lines, content_type="text/event-stream"))


def test_an_answer_is_seen_while_it_comes_and_is_stopped(browser, served, monkeypatch) -> None:
    gate = Gate(monkeypatch)
    with serving(served) as (url, _), opened(browser, url) as page:
        ask(page, "the quick brown fox")
        assert gate.held.wait(10) and not gate.open.is_set()
        expect(page.locator(".answer .body p.dim")).to_have_count(0)
        expect(page.locator(".answer .body")).not_to_be_empty()
        page.click("#stop")
        assert gate.left.wait(10)
        expect(page.locator(".answer .actions")).to_contain_text("stopped")
        expect(page.locator("#send")).to_be_visible()
        gate.open.set()
        assert asked(page, "and then")


def test_escape_stops_too(browser, served, monkeypatch) -> None:
    gate = Gate(monkeypatch)
    with serving(served) as (url, _), opened(browser, url) as page:
        ask(page, "the quick brown fox")
        assert gate.held.wait(10)
        page.keyboard.press("Escape")
        expect(page.locator(".answer .actions")).to_contain_text("stopped")


def test_a_conversation_is_found_after_a_reload_and_a_restart(browser, served) -> None:
    with serving(served) as (url, _), opened(browser, url) as page:
        said = asked(page, "The quick brown fox")
        page.reload()
        expect(page.locator("#title")).to_have_text("the quick brown fox")
        expect(page.locator(".answer .body")).to_have_text(said, use_inner_text=True)
    with serving(served) as (url, _), opened(browser, url) as page:
        page.get_by_role("button", name="the quick brown fox", exact=True).click()
        expect(page.locator(".question .body")).to_have_text("The quick brown fox")
        assert asked(page, "and then")
        expect(page.locator(".answer")).to_have_count(2)


def test_a_question_is_edited_and_an_answer_tried_again(page) -> None:
    asked(page, "one")
    asked(page, "two")
    page.locator(".question").first.get_by_role("button", name="Edit").click()
    expect(page.locator("#question")).to_have_value("one")
    ask(page, "three")
    expect(page.locator(".question .body")).to_have_text(["three"])
    expect(page.locator(".answer .actions")).to_be_visible()
    page.locator(".answer").last.get_by_role("button", name="Retry").click()
    expect(page.locator(".answer .actions").last).to_be_visible()
    expect(page.locator(".question .body")).to_have_text(["three"])
    page.reload()
    expect(page.locator(".question .body")).to_have_text(["three"])


def test_conversations_are_renamed_and_removed_with_undo(page) -> None:
    asked(page, "one")
    page.on("dialog", lambda dialog: dialog.accept("my fox"))
    page.get_by_role("button", name="Rename one").click()
    expect(page.locator("#title")).to_have_text("my fox")
    page.get_by_role("button", name="Delete my fox").click()
    expect(page.locator("#sessions li")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#sessions li")).to_have_count(1)
    page.clock.install()
    page.get_by_role("button", name="Delete my fox").click()
    page.clock.run_for(7000)
    page.reload()
    expect(page.locator("#sessions li")).to_have_count(0)


def test_what_a_model_writes_is_never_markup_that_runs(page) -> None:
    bad = "<img src=x onerror=alert(1)> <script>alert(1)</script> [a](javascript:alert(1)) **<b>x</b>**"
    play(page, {"thinking": bad}, {"answer": bad})
    said = asked(page, "<b>hi</b>")
    assert "<script>alert(1)</script>" in said and "<img" in said
    assert page.locator("#talk img, #talk script, #talk b, #talk a").count() == 0
    expect(page.locator(".question .body")).to_have_text("<b>hi</b>")


def test_markdown_and_thoughts(page) -> None:
    text = "# Head\n\n* one\n* **two**\n  1. deep\n\n| a | b |\n|---|---|\n| 1 | `2` |\n\n"
    text += "> said\n\n```python\nx = 1\n```\n"
    play(page, {"thinking": "hm"}, {"answer": text + "see [here](https://example.org)"})
    asked(page, "show")
    answer = page.locator(".answer")
    for selector, content in (
        ("h3", "Head"),
        ("ul > li:nth-child(2) strong", "two"),
        ("ul ol li", "deep"),
        ("td code", "2"),
        ("blockquote", "said"),
        (".fence header span", "python"),
        ("pre code", "x = 1"),
        ("summary", "Thought for 0 s"),
    ):
        expect(answer.locator(selector)).to_have_text(content)
    assert answer.locator("a").get_attribute("rel") == "noopener noreferrer"
    assert not answer.locator("details").evaluate("node => node.open")
    answer.get_by_role("button", name="Copy").first.click()
    assert page.evaluate("navigator.clipboard.readText()") == "x = 1"
    expect(page.locator("#context")).to_contain_text("50 % of the context")


def test_copying_works_where_browsers_keep_the_clipboard(page) -> None:
    """As on a phone that reaches this machine by plain http."""
    play(page, {"answer": "a fox"})
    asked(page, "who?")
    page.evaluate(
        "window.kept = navigator.clipboard; Object.defineProperty(navigator, 'clipboard', {value: undefined})"
    )
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("window.kept.readText()") == "a fox"


def test_by_keyboard_alone(page) -> None:
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator(".question .body")).to_have_text("one\ntwo", use_inner_text=True)
    expect(page.locator(".answer .actions")).to_be_visible()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Retry":
            break
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_have_count(1)


def test_on_a_phone(browser, served) -> None:
    with serving(served) as (url, _), opened(browser, url, viewport=PHONE, has_touch=True) as page:
        asked(page, "the quick brown fox")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        expect(page.locator("#new")).to_be_hidden()
        page.click("#open-sidebar")
        page.click("#new")
        expect(page.locator("#talk article")).to_have_count(0)
        expect(page.locator("#new")).to_be_hidden()


def test_settings_are_used_and_kept(page) -> None:
    page.click("#open-settings")
    page.fill("#max_tokens", "3")
    page.select_option("#theme", "dark")
    page.get_by_role("button", name="Done").click()
    asked(page, "one")
    expect(page.locator(".answer .actions")).to_contain_text("3 tokens")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_errors_are_said_and_what_was_refused_goes_with_the_next_question(page) -> None:
    asked(page, "one")
    ask(page, "fox " * 2000)
    expect(page.locator(".answer .error")).to_contain_text("context")
    ask(page, "two")
    expect(page.locator(".question .body")).to_have_text(["one", "two"])
    expect(page.locator(".answer .actions").last).to_be_visible()
    page.locator(".question").last.get_by_role("button", name="Edit").click()
    ask(page, "three")
    expect(page.locator(".question .body")).to_have_text(["one", "three"])
    expect(page.locator(".answer .actions").last).to_be_visible()
    page.reload()
    expect(page.locator(".question .body")).to_have_text(["one", "three"])


def test_a_key_is_asked_for(browser, served) -> None:
    with serving(served, policy=Policy(key="secret")) as (url, _):
        page = browser.new_page()
        page.goto(url)
        page.fill("#key-value", "secret")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#model option")).to_have_count(1)
        assert asked(page, "fox")
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1100, "height": 800}, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing_serious(browser, served, scheme, viewport) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with serving(served) as (url, _), opened(browser, url, color_scheme=scheme, viewport=viewport) as page:
        play(
            page, {"thinking": "hm"}, {"answer": "**x** `y` [z](https://example.org)\n\n```python\nx\n```\n"}
        )
        asked(page, "show")
        for click in (None, "#open-settings"):
            if click:
                page.click(click)
            found = axe.run(page).response["violations"]
            assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
