"""README.md is right: its Python runs, the commands and options that it shows exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import tiny

from edgert.cli import main
from edgert.export import ExportOptions, export

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"`(edgert [^`]+)`")  # in a sentence

# After a block that only defines what a program would call: tasks that want nothing but a model.
CALLS = """
import asyncio, inspect
for task in [value for value in list(globals().values()) if inspect.iscoroutinefunction(value)]:
    if list(inspect.signature(task).parameters) == ["model"]:
        with edgert.load("my-bundle/") as model:
            asyncio.run(task(model))
"""


def blocks(language):
    return [text for kind, text in BLOCK.findall(PAGES[0].read_text("utf-8")) if kind == language]


def commands(page):
    """All that begins with `edgert`: lines of console blocks, and what sentences show."""
    text = page.read_text("utf-8").replace("\r\n", "\n")
    console = "\n".join(block for kind, block in BLOCK.findall(text) if kind == "console")
    lines = [line.removeprefix("$ ") for line in console.splitlines() if line.startswith("$ edgert ")]
    return lines + [re.sub(r"\s+", " ", shown) for shown in SHOWN.findall(BLOCK.sub("", text))]


def check(line):
    """Raises click.UsageError for a command, an option or a choice that doesn't exist."""
    words = shlex.split(line, comments=True)[1:]
    group = click.Context(main, info_name="edgert", **main.context_settings)
    if words[0].startswith("-"):
        main.make_parser(group).parse_args(words)
        return
    _, command, rest = main.resolve_command(group, words)
    context = click.Context(command, parent=group, info_name=command.name)
    if isinstance(command, click.Group) and rest:
        _, command, rest = command.resolve_command(context, rest)
        context = click.Context(command, parent=context, info_name=command.name)
    values, surplus, _ = command.make_parser(context).parse_args(rest)
    if surplus:
        raise click.UsageError(f"{line}: too many arguments: {surplus}")
    for parameter in command.get_params(context):
        if isinstance(parameter.type, click.Choice) and isinstance(value := values.get(parameter.name), str):
            parameter.type.convert(value, parameter, context)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a bundle is called my-bundle. One token in eight ends its answers, so that they are short."""
    folder = tmp_path_factory.mktemp("readme")
    chatty = tiny.Tiny(
        overrides={"max_position_embeddings": 1024},
        generation={"eos_token_id": [1, *range(8, tiny.VOCAB, 8)]},
        template=tiny.TOOL_TEMPLATE,
    )
    checkpoint = tiny.write(folder / "checkpoint", chatty)
    export(checkpoint, folder / "my-bundle", ExportOptions(calibrate=False, verify=False))
    return folder


def run(code, folder):
    command = [sys.executable, "-W", "error", "-X", "utf8", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.strip().splitlines()[0])
def test_python_blocks_run(code, folder):
    before = "" if "import edgert" in code else "import edgert\n"
    assert run(before + code + CALLS, folder).strip()


def test_the_first_block_says_how_fast_it_was(folder):
    assert re.search(
        r"^(stop|length) [\d.]+ tokens per second", run(blocks("python")[0], folder), re.MULTILINE
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    for line in commands(page):
        check(line)


def test_readme_has_what_these_tests_look_for():
    assert len(blocks("python")) >= 2 and len(commands(PAGES[0])) >= 10
    assert any("async def" in code for code in blocks("python"))


@pytest.mark.parametrize(
    "line",
    [
        "edgert chatter",
        "edgert chat --loud",
        "edgert export A B --quant int5",
        "edgert info A B C",
        "edgert -z",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line):
    with pytest.raises(click.UsageError):
        check(line)
