"""Pictures of the server's page for the README: a conversation with a bundle, wide and on a phone.

    python benchmarks/page_screens.py [BUNDLE] [--to docs/images]

Needs the extra `[page]` and Chromium.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright
from servers import free_port, wait_for

from edgert.home import DEFAULT_MODEL

QUESTIONS = ("Why is the sky blue? Answer in two sentences.", "Write a function that adds two numbers.")
EARLIER = "Name three planets."
WIDE: ViewportSize = {"width": 1000, "height": 720}
PHONE: ViewportSize = {"width": 360, "height": 640}
ANSWER_MS = 120_000


@click.command
@click.argument("bundle", default=DEFAULT_MODEL)
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), default=Path("docs/images"), show_default=True
)
def main(bundle: str, folder: Path) -> None:
    """Ask, and write page.png and page-phone.png."""
    port = free_port()
    with tempfile.TemporaryDirectory() as kept:  # no conversations of whoever runs this
        environment = {**os.environ, "EDGERT_STATE": kept}
        command = [sys.executable, "-m", "edgert", "serve", bundle, "--port", str(port), "--log", "off"]
        server = subprocess.Popen(command, env=environment)
        try:
            wait_for(server, port)
            shoot(f"http://127.0.0.1:{port}", folder)
        finally:
            server.terminate()
            server.wait(30)


def shoot(url: str, folder: Path) -> None:
    """A dark conversation on a wide screen, then the same, light, on a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=WIDE, color_scheme="dark")
        page.goto(url)
        ask(page, EARLIER, 1)
        page.click("#new")
        for number, question in enumerate(QUESTIONS, 1):
            ask(page, question, number)
        page.screenshot(path=folder / "page.png")
        page.set_viewport_size(PHONE)
        page.emulate_media(color_scheme="light")
        page.locator("#talk").evaluate("node => { node.scrollTop = 0; }")
        page.screenshot(path=folder / "page-phone.png")
        browser.close()


def ask(page: Page, question: str, number: int) -> None:
    """And wait for the end of the answer, the conversation's `number`th."""
    page.fill("#question", question)
    page.press("#question", "Enter")
    expect(page.locator(".answer .actions:visible")).to_have_count(number, timeout=ANSWER_MS)


if __name__ == "__main__":
    main()
