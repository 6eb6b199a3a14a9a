"""Defaults of the user's own: read, checked, changed with their comments kept; which come first."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgert
from edgert import home, settings
from edgert.cli import main, opening
from edgert.toml_text import with_key


def run(*arguments, input=None, env=None):
    return CliRunner().invoke(main, [str(a) for a in arguments], input=input, env=env)


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "config.toml").write_text(text, "utf-8")
        return tmp_path / "config.toml"

    return write


def test_a_bundle_s_own_table_comes_before_that_for_all(write):
    write('context = 64\ntop_k = 5\n[bundles."qwen3-0.6b"]\ntop_k = 7\ntemperature = 1')
    found = settings.read()
    assert found.of("qwen3-0.6b").values == {"context": 64, "temperature": 1.0, "top_k": 7}
    assert found.of("other").values == {"context": 64, "top_k": 5}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("contxt = 5", "contxt: no such key; did you mean context? there are device, context, threads"),
        ("frobnicate = 5", "frobnicate: no such key: there are device, context, threads"),
        ("context = 0", "context: 0 is below 1"),
        ("context = true", "context: true is not a whole number"),
        ("temperature = 'hot'", 'temperature: "hot" is not a number'),
        ("device = 'laptop'", "device: unknown device 'laptop'; did you mean laptop-cpu?"),
        ("[bundles.mine]\ntop_p = 1.5", "bundles.mine.top_p: 1.5 is above 1"),
        ("[bundles]\nmine = 5", "bundles.mine: 5 is not a table"),
        ("bundles = 5", "bundles: holds tables, as in [bundles.NAME]"),
        ("context = ", "not valid TOML: "),
    ],
)
def test_what_is_wrong_in_the_file_is_one_line_with_file_and_key(write, bundles, text, complaint):
    path = write(text)
    for command in (["config"], ["generate", bundles(), "-p", "x"], ["info", bundles()]):
        result = run(*command)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.startswith(f"edgert: {path}: {complaint}")


def test_doctor_tells_what_is_wrong_in_the_file(write):
    path = write("context = 0")
    result = run("doctor")
    assert result.exit_code == 1 and f"settings               {path}: context: 0 is below 1" in result.stdout


def test_config_sets_shows_and_unsets(tmp_path):
    assert run("config").stdout == f"{tmp_path / 'config.toml'}\nnothing is set; see: edgert config --help\n"
    for command in ("set context 512", "set top-k 5 --bundle mine", "set temperature 1 --bundle a/b.c"):
        assert run("config", *command.split()).exit_code == 0
    assert run("config", "get", "top_k", "--bundle", "./somewhere/mine").stdout == "5\n"
    assert run("config", "get", "context", "--bundle", "mine").stdout == "512\n"
    assert run("config").stdout.splitlines()[1:] == [
        "for all bundles: context 512",
        "for mine: top_k 5",
        "for a/b.c: temperature 1.0",
    ]
    assert run("config", "unset", "context").exit_code == 0
    result = run("config", "get", "context")
    assert (result.exit_code, result.stderr) == (
        2,
        f"edgert: context is not set in {tmp_path / 'config.toml'}\n",
    )
    assert run("config", "unset", "top_k").exit_code == 2
    assert run("config", "unset", "top_k", "--bundle", "mine").exit_code == 0
    assert tomllib.loads((tmp_path / "config.toml").read_text("utf-8"))["bundles"]["mine"] == {}


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("contxt", "5", "no such key 'contxt'; did you mean context?"),
        ("context", "many", 'context: "many" is not a whole number'),
        ("context", "0", "context: 0 is below 1"),
        ("stop_loops", "yes", 'stop_loops: "yes" is not true or false'),
        ("device", "laptop", "device: unknown device 'laptop'; did you mean laptop-cpu?"),
    ],
)
def test_set_says_what_is_allowed(key, value, complaint, tmp_path):
    result = run("config", "set", key, value)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1) and complaint in result.stderr
    assert not (tmp_path / "config.toml").exists()


KEPT = """\
# our fleet
context = 4096  # fits # a Pi
'top_k' = 5

# thinkers
[bundles."r1.distill"] # careful
temperature = 0.6

[bundles.other]
"""


@pytest.mark.parametrize(
    ("table", "key", "value", "before", "after"),
    [
        ((), "context", 512, "context = 4096  #", "context = 512  #"),
        ((), "top_k", 7, "'top_k' = 5", "top_k = 7"),
        ((), "device", 'a"b', "'top_k' = 5\n", '\'top_k\' = 5\ndevice = "a\\"b"\n'),
        ((), "top_k", None, "'top_k' = 5\n", ""),
        (("bundles", "r1.distill"), "temperature", 0.5, "temperature = 0.6", "temperature = 0.5"),
        (("bundles", "r1.distill"), "top_p", 0.9, "temperature = 0.6\n", "temperature = 0.6\ntop_p = 0.9\n"),
        (("bundles", "other"), "top_p", 1.0, "[bundles.other]\n", "[bundles.other]\ntop_p = 1.0\n"),
        (("bundles", "new"), "top_p", 1.0, "r]\n", "r]\n\n[bundles.new]\ntop_p = 1.0\n"),
    ],
)
def test_all_but_one_line_stays(table, key, value, before, after):
    assert KEPT.count(before) == 1
    assert with_key(KEPT, table, key, value) == KEPT.replace(before, after)


def test_a_file_that_begins_with_a_table_gets_a_line_before_it():
    assert with_key("[bundles.a]\n", (), "top_k", 5) == "top_k = 5\n\n[bundles.a]\n"
    assert with_key("# ours\n\n", (), "top_k", 5) == "# ours\ntop_k = 5\n\n"
    assert with_key("", ("bundles", "a"), "top_k", 5) == "[bundles.a]\ntop_k = 5\n"


@pytest.mark.parametrize("text", ["bundles = { mine = { top_k = 5 } }\n", "bundles.mine.top_k = 5\n"])
def test_what_can_not_be_changed_by_line_is_left_alone(write, text):
    path = write(text)
    result = run("config", "set", "top_k", "7", "--bundle", "mine")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"{path}: " in result.stderr and path.read_text("utf-8") == text
    assert run("config", "get", "top_k", "--bundle", "mine").stdout == "5\n"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_stays_one(write, tmp_path, monkeypatch):
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "config.toml").symlink_to(tmp_path / "dotfiles" / "edgert.toml")
    assert run("config", "set", "context", "5").exit_code == 0
    assert (tmp_path / "config.toml").is_symlink()
    assert (tmp_path / "dotfiles" / "edgert.toml").read_text("utf-8") == "context = 5\n"


@pytest.fixture
def asked(monkeypatch, bundles):
    """How `edgert generate` loads and asks a bundle, instead of doing so."""
    seen = {}

    class Asked(Exception):
        pass

    class Model:
        context = 5

        def stream(self, prompt, **options):
            seen["options"] = options
            raise edgert.UsageError("asked")

    def load(folder, device, context, kv, **how):
        seen.update(device=device, context=context, threads=how["threads"])
        return Model()

    monkeypatch.setattr("edgert.model.load", load)

    def ask(*arguments, **env):
        seen.clear()
        assert run("generate", bundles(), "-p", "x", *arguments, env=env).stderr == "edgert: asked\n"
        return seen

    return ask


def test_the_command_line_comes_first_then_variables_then_the_bundle_then_all(asked, write, bundles):
    write(
        f"context = 10\ndevice = 'laptop-cpu'\ntop_k = 1\n"
        f"[bundles.{bundles().name}]\ncontext = 20\nthreads = 2\ntop_k = 2\nmin_p = 0.1"
    )
    everything = ["--context", 40, "--top-k", 4]
    own = {"device": "laptop-cpu", "threads": 2}
    assert asked() == {**own, "context": 20, "options": {"top_k": 2, "min_p": 0.1}}
    variables = {"EDGERT_CONTEXT": "30", "EDGERT_TOP_K": "0", "EDGERT_THREADS": "3"}
    assert asked(**variables) == {**own, "threads": 3, "context": 30, "options": {"top_k": 0, "min_p": 0.1}}
    assert asked(*everything, **variables)["context"] == 40
    assert asked(*everything, **variables)["options"]["top_k"] == 4


def test_info_and_doctor_tell_what_comes_from_the_file(write, bundles):
    path = write(f"device = 'raspberry-pi-5'\n[bundles.{bundles().name}]\ntop_p = 0.9")
    told = f'device "raspberry-pi-5", top_p 0.9; of {path}'
    assert f"settings    {told}\n" in run("info", bundles()).stdout
    assert f"settings               {told}\n" in run("doctor", bundles()).stdout


def test_python_reads_no_settings(write, bundles):
    write("context = 16")
    with edgert.load(bundles()) as model:
        assert model.context > 16
    with edgert.load(bundles(), threads=1) as model:
        assert model.threads == 1
    with pytest.raises(edgert.UsageError, match="threads must be at least 1, not 0"):
        edgert.load(bundles(), threads=0)


def test_commands_load_as_set(write, bundles):
    write("context = 16\nthreads = 1")
    model = opening.load_model(str(bundles()), None, None)
    assert (model.context, model.threads) == (16, 1)
    measured = json.loads(run("bench", bundles(), "--runs", "1", "--depths", "0", "--json").stdout)
    assert (measured["context"], measured["threads"]) == (16, 1)


@pytest.mark.parametrize(
    ("platform", "variable", "place"),
    [
        ("linux", "XDG_CONFIG_HOME", "{}/edgert"),
        ("win32", "APPDATA", "{}/edgert"),
        ("darwin", None, "~/Library/Application Support/edgert"),
        ("linux", None, "~/.config/edgert"),
    ],
)
def test_where_the_file_is(platform, variable, place, monkeypatch, tmp_path):
    monkeypatch.delenv("EDGERT_CONFIG")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr("sys.platform", platform)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
    assert home.config_file() == Path(place.format(tmp_path)).expanduser() / "config.toml"


def test_a_file_from_windows_editors_is_read(write):
    write("\ufeffcontext = 5\r\n")
    assert settings.read().everywhere.context == 5
