"""The command line: whole screens, exit codes, errors in one line."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

import edgert
from edgert import cli, errors, home, open_bundle
from edgert.answering.reply import Stopwatch
from edgert.cli import console, main, opening
from edgert.export import catalog


def run(*arguments, input=None):
    return CliRunner().invoke(main, [str(a) for a in arguments], input=input)


DONE = edgert.Chunk("", None, Stopwatch(1).timings(0), "stop")
SHARED = {"__init__", "completing", "console", "opening", "options"}


def test_every_command_is_a_module_of_its_name():
    """Adding one takes a file and a line of the table."""
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - SHARED
    assert set(cli.COMMANDS) == modules
    for name in cli.COMMANDS:
        assert main.get_command(None, name).name == name
    assert main.get_command(None, "console") is None
    assert run("consol").exit_code == 2


def test_help_screens_need_nothing_heavy():
    code = """
import sys
from edgert.cli import COMMANDS, main
for name in ("", *COMMANDS):
    try:
        main([*filter(None, [name]), "--help"])
    except SystemExit as done:
        assert done.code == 0
heavy = {"numpy", "onnxruntime", "tokenizers", "jinja2", "importlib.metadata", "urllib.request"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-I", "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_tree_of_errors_names_them_all():
    """With their exit codes, as errors.py shows it, and no two alike."""
    tree = dict(re.findall(r"(\w+) +(\d+)   ", errors.__doc__))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.__name__: kind.exit_code for kind in kinds if issubclass(kind, edgert.EdgertError)}
    assert {name: int(code) for name, code in tree.items()} == codes
    assert len(set(codes.values())) == len(codes)


@pytest.fixture
def source(tmp_path):
    return tiny.write(tmp_path / "student")


def test_export_then_generate(source, tmp_path):
    exported = run("export", source, tmp_path / "b")
    assert exported.exit_code == 0, exported.output
    size = f"{open_bundle(tmp_path / 'b').size / 1e6:.1f} MB"
    first, road, measured = exported.stdout.splitlines()
    assert road == "via         direct"
    assert first == f"{tmp_path / 'b'}: {size}, ready for: edgert chat {tmp_path / 'b'}"
    assert measured.startswith("fidelity    mean KL 0.0") and "4096 tokens" in measured
    assert exported.stderr == ""  # no progress bar where there is no terminal
    answered = run("generate", tmp_path / "b", "-p", "the fox", "--max-tokens", "5")
    assert answered.exit_code == 0 and answered.stdout.endswith("\n")


def test_every_phase_of_an_export_shows_its_own_progress(monkeypatch):
    """A bar of click that has come to its end stands still for good."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    with console.phase_bar() as progress:
        for phase in ("Exporting", "Measuring", "Exporting"):
            for done in range(1, 5):
                progress(phase, done, 4)
    lines = terminal.getvalue().strip("\n").split("\n")
    assert [line.count("Measuring") > 0 for line in lines] == [False, True, False]
    assert all(share in line for line in lines for share in (" 25%", " 50%", " 75%", "100%"))


def test_export_json_is_the_manifest(source, tmp_path):
    result = run("export", source, tmp_path / "b", "--json", "--quant", "fp32", "--max-context", "64")
    manifest = json.loads(result.stdout)
    assert (manifest["quantization"]["scheme"], manifest["model"]["context"]) == ("fp32", 64)
    assert result.stdout == open_bundle(tmp_path / "b").manifest.to_json()


def test_generate_json_has_the_promised_keys(bundles):
    result = json.loads(run("generate", bundles(), "-p", "the fox", "--max-tokens", "4", "--json").stdout)
    assert list(result) == [
        "text",
        "thinking",
        "token_ids",
        "finish_reason",
        "prompt_tokens",
        "thinking_tokens",
        "drafted_tokens",
        "accepted_tokens",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "time_to_first_token_s",
    ]
    assert len(result["token_ids"]) == 4 and result["finish_reason"] == "length"
    assert result["prefill_tokens_per_s"] > 0 and result["decode_tokens_per_s"] > 0


def test_generate_raw_skips_the_template(bundles):
    chat, raw = (
        json.loads(run("generate", bundles(), "-p", "fox", "--max-tokens", "1", "--json", *flags).stdout)
        for flags in ((), ("--raw",))
    )
    assert raw["prompt_tokens"] < chat["prompt_tokens"]


def test_generate_reads_the_prompt_from_standard_input(bundles):
    piped = run("generate", bundles(), "-p", "-", "--max-tokens", "3", "--seed", "1", input="the fox")
    assert (
        piped.stdout == run("generate", bundles(), "-p", "the fox", "--max-tokens", "3", "--seed", "1").stdout
    )


def test_raw_text_from_standard_input_is_kept_to_the_letter(bundles, monkeypatch):
    """White space around it is part of a text that is to be continued."""
    read = []
    monkeypatch.setattr(edgert.Model, "stream", lambda _self, prompt, **_: read.append(prompt) or [DONE])
    encode = edgert.load(bundles()).tokenizer.encode
    run("generate", bundles(), "--raw", "-p", "-", input=b" the fox\r\n\n")
    run("generate", bundles(), "-p", "-", input=b" the fox\r\n\n")
    assert read == [encode(" the fox\r\n\n"), "the fox"]
    assert encode(" the fox\r\n\n") != encode("the fox")


@pytest.mark.parametrize("arguments", [["-p", ""], ["-p", "  \n"], ["--raw", "-p", ""]])
def test_an_empty_prompt_is_refused(bundles, arguments):
    result = run("generate", bundles(), *arguments)
    assert (result.exit_code, result.stderr) == (2, "edgert: the prompt is empty: -p needs a text\n")


@pytest.mark.parametrize(
    "arguments",
    [["chat", "nope"], ["generate", "nope", "-p", "-"], ["compare", "nope", "nope", "--prompts", "-"]],
)
def test_the_bundle_is_opened_before_standard_input_is_read(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, input="")
    assert result.exit_code == 4
    assert result.stderr.startswith("edgert: nope: no such bundle")


@pytest.mark.parametrize(
    "command", [["chat"], ["generate", "-p", "x"], ["bench"], ["tune"], ["info"], ["prepare"]]
)
def test_a_checkpoint_that_is_no_bundle_is_named_with_the_command(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model.gguf").write_bytes(b"GGUF")
    result = run(*command, "my model.gguf", input="x")
    advice = "export it first: edgert export 'my model.gguf' 'my model-int8'"
    assert (result.exit_code, result.stderr) == (
        4,
        f"edgert: my model.gguf: a checkpoint, not a bundle; {advice}\n",
    )


def test_other_things_than_bundles(source, tmp_path):
    """What is in the way decides what helps; from Python, too."""
    with pytest.raises(edgert.BundleError, match=f"a checkpoint, .* edgert export {source} student-int8"):
        edgert.load(source)
    (tmp_path / "downloaded").mkdir()
    (tmp_path / "downloaded" / "model.gguf").touch()
    with pytest.raises(edgert.BundleError, match=r"edgert export .*downloaded.model\.gguf'? model-int8"):
        edgert.load(tmp_path / "downloaded")
    (tmp_path / "empty").mkdir()
    with pytest.raises(edgert.BundleError, match="a folder, but not a bundle: it has no edgert.json"):
        edgert.load(tmp_path / "empty")
    with pytest.raises(edgert.BundleError, match="a file, but a bundle is a folder"):
        edgert.load(source / "config.json")


@pytest.mark.parametrize("command", [["chat"], ["info"], ["fit"], ["doctor"], ["devices"]])
def test_a_known_student_that_was_not_pulled_is_named_with_the_command(command):
    result = run(*command, "qwen3-0.6b", input="x")
    assert result.exit_code in (1, 4)
    assert f"qwen3-0.6b is not in {home.home()} yet; get it with: edgert pull qwen3-0.6b\n" in result.output


def edgert_process(*arguments, closed=""):
    """edgert as a shell starts it, with some of its standard files closed."""
    command = shlex.join([sys.executable, "-m", "edgert", *map(str, arguments)])
    return subprocess.run(
        ["sh", "-c", f"{command} {closed}"], check=False, capture_output=True, stdin=subprocess.DEVNULL
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's way to close files")
def test_without_standard_error_everything_works(source, bundles, tmp_path):
    made = edgert_process("export", source, tmp_path / "b", "--no-verify", closed="2>&-")
    assert made.returncode == 0 and b"ready for: edgert chat" in made.stdout
    compared = edgert_process("compare", bundles(), tmp_path / "b", "--max-tokens", "2", closed="2>&-")
    assert compared.returncode == 0 and b"identical answers" in compared.stdout
    assert (
        edgert_process("export", source, tmp_path / "c", "--no-verify", closed=">&- 2>&- <&-").returncode == 0
    )
    assert open_bundle(tmp_path / "c").check_hashes() is None
    assert edgert_process("info", "nope", closed="2>&-").returncode == 4


def test_progress_without_standard_error(monkeypatch):
    """As pythonw has it."""
    monkeypatch.setattr("sys.stderr", None)
    with console.progress_bar("Measuring") as progress, console.phase_bar() as phases:
        progress(1, 2)
        phases("Exporting", 1, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's way to close files")
def test_what_was_closed_is_not_taken_by_the_next_file():
    code = """
import os
from edgert.cli import console
console.occupy_standard_files()
print(os.open(os.devnull, os.O_RDONLY))
"""
    command = shlex.join([sys.executable, "-c", code])
    found = subprocess.run(["sh", "-c", f"{command} <&- 2>&-"], check=True, capture_output=True)
    assert int(found.stdout) > 2


def test_chat_answers_a_piped_prompt_and_exits(bundles):
    result = run("chat", bundles(), "--max-tokens", "6", input="the fox\n")
    assert result.exit_code == 0
    assert result.stdout == run("generate", bundles(), "-p", "the fox", "--max-tokens", "6").stdout


def test_a_text_that_is_piped_in_comes_before_the_prompt(bundles):
    joined = run("generate", bundles(), "-p", "the fox", "--max-tokens", "6", input="a lazy dog\n")
    whole = run("generate", bundles(), "-p", "a lazy dog\n\nthe fox", "--max-tokens", "6")
    alone = run("generate", bundles(), "-p", "the fox", "--max-tokens", "6")
    assert joined.exit_code == 0 and joined.stdout == whole.stdout != alone.stdout


def test_stats_go_beside_the_answer(bundles):
    command = ("generate", bundles(), "-p", "the fox", "--max-tokens", "6")
    plain, told = run(*command), run(*command, "--stats")
    assert plain.stdout == told.stdout and "tokens per second, the first after" in told.stderr


def test_info_shows_the_facts(bundles):
    screen = run("info", bundles(), "--verify").stdout
    assert "llama, 0 M parameters, 3 layers" in screen
    assert "bits per weight; one scale per row; calibrated; rotated" in screen
    assert "not measured (--no-verify)" in screen
    assert json.loads(run("info", bundles(), "--json").stdout)["format_version"] == 4


def test_devices_name_the_detected_one_and_why():
    table = json.loads(run("devices", "--json").stdout)
    assert table["detected"] in [profile["name"] for profile in table["profiles"]]
    assert table["reason"] in run("devices").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "nowhere"], 4, "no such bundle"),
        (["generate", "nowhere", "-p", "x"], 4, "no such bundle"),
        (["pull", "gpt-5"], 2, "unknown model 'gpt-5': choose one of smollm2-135m-instruct"),
        (["export", "nowhere", "b"], 6, "no such file or folder"),
        (["genrate"], 2, "no such command 'genrate'; did you mean generate? see: edgert --help"),
        (["frobnicate"], 2, "no such command 'frobnicate'; see: edgert --help"),
        (["--temprature"], 2, "--temprature"),
        (["chat", "--temprature", "1"], 2, "--temperature'? see: edgert chat --help"),
        (
            ["info", "QWEN3-0.6"],
            4,
            "QWEN3-0.6: no such bundle; did you mean qwen3-0.6b? get it with: edgert pull",
        ),
        (["pull", "qwen3-06b"], 2, "unknown model 'qwen3-06b'; did you mean qwen3-0.6b? choose one of"),
        (["doctor", "--device", "raspberrypi-4"], 5, "; did you mean raspberry-pi-4? choose one of"),
        (["generate"], 2, "missing option '-p' / '--prompt'; see: edgert generate --help"),
        (
            ["bench", "--runs", "0"],
            2,
            "0 is not in the range x>=1; see: edgert bench --help",
        ),
    ],
)
def test_errors_are_one_line_and_an_exit_code(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == code
    assert result.stderr.startswith("edgert: ") and message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--temperature", "-1"], 2, "temperature must be a number between"),
        (["--device", "toaster"], 5, "unknown device 'toaster'"),
        (["--context", "9999"], 2, "between 1 and the bundle's 256"),
        (["--context", "4"], 8, "the context holds 4: shorten it, or give a larger --context"),
    ],
)
def test_errors_of_a_request(bundles, arguments, code, message):
    result = run("generate", bundles(), "-p", "the fox", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert message in result.stderr


@pytest.mark.parametrize(("piped", "message"), [(b"\xff\xfe", "not UTF-8"), (b"  \n", "empty")])
def test_piped_prompts_are_checked(bundles, piped, message):
    result = run("chat", bundles(), input=piped)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr


def test_a_place_that_cannot_be_written_is_one_line(source):
    result = run("export", source, source / "config.json" / "x")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"edgert: can't write {source / 'config.json' / 'x'}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1] + b"!"])
def test_a_damaged_pulled_bundle_is_made_again(source, monkeypatch, damage):
    """Only the bundle is damaged: pull exports its checkpoint again and says so."""
    folder = home.bundle_folder(home.DEFAULT_MODEL)
    run("export", source, folder)
    path = folder / "model.onnx.data"
    path.write_bytes(damage(path.read_bytes()))
    monkeypatch.setattr("edgert.export.pull.pull", lambda _entry, _folder: source)
    result = run("pull")
    assert result.exit_code == 0, result.stderr
    assert "export or pull it again: doing so" in result.stderr
    info = run("info", home.DEFAULT_MODEL, "--verify")
    assert info.exit_code == 0
    assert f"repetition_penalty {catalog.find(home.DEFAULT_MODEL).repetition_penalty}" in info.stdout


def test_a_missing_default_student_is_named_with_the_command():
    result = run("chat", input="hello")
    assert result.exit_code == 2
    assert "The default student, smollm2-135m-instruct, is not in" in result.stderr
    assert "edgert pull smollm2-135m-instruct" in result.stderr


def test_a_missing_default_student_is_offered_on_a_terminal(monkeypatch, bundles):
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr(opening.click, "confirm", lambda *_, **__: True)
    monkeypatch.setattr(
        opening, "pull_bundle", lambda name: bundles() if name == home.DEFAULT_MODEL else None
    )
    assert opening.default_bundle() == bundles()


def test_python_is_told_what_python_has():
    error = edgert.PromptTooLong(20, 16)
    assert str(error) == (
        "the prompt has 20 tokens, the context holds 16: shorten it, or load with a larger context="
    )
    assert (error.prompt_tokens, error.context) == (20, 16)


class Terminal:
    def isatty(self):
        return True


def test_a_pulled_bundle_is_found_by_name(source):
    run("export", source, home.bundle_folder("mine"))
    assert run("info", "mine").stdout.startswith("name        mine\n")


def test_help_teaches():
    assert "edgert export CHECKPOINT BUNDLE" in run("--help").output
    assert "0.6 suits R1 students" in " ".join(run("chat", "--help").output.split())
