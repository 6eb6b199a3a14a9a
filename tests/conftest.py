"""Shared fixtures: tiny checkpoints and bundles, an isolated home, the real student."""

from __future__ import annotations

import importlib.util
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

if importlib.util.find_spec("edgert.export") is None:
    raise pytest.UsageError("edgert is not installed: run `pip install -e '.[test]'` first, or `make test`")

import edgert
from edgert.export import ExportOptions, export

DATA = Path(__file__).parent / "data"
REAL_HOME = os.environ.get("EDGERT_HOME")  # where the student is kept between runs


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing a test does reaches the user's own folders, nor depends on them."""
    monkeypatch.setenv("EDGERT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EDGERT_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("EDGERT_STATE", str(tmp_path / "state"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny checkpoint of each family, written once."""
    root, made = tmp_path_factory.mktemp("checkpoints"), {}

    def checkpoint(family: str) -> Path:
        if family not in made:
            made[family] = tiny.write(root / family, tiny.Tiny(family))
        return made[family]

    return checkpoint


@pytest.fixture(scope="session")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: Callable[[str], Path]
) -> Callable[..., Path]:
    """A bundle of a tiny checkpoint in a quantization, exported once."""
    root = tmp_path_factory.mktemp("bundles")

    def bundle(family: str = "llama", quant: str = "int8") -> Path:
        folder = root / f"{family}-{quant}"
        if not folder.exists():
            export(checkpoints(family), folder, ExportOptions(quant=quant, verify=False))  # type: ignore[arg-type]
        return folder

    return bundle


@pytest.fixture(scope="session")
def model(bundles: Callable[..., Path]) -> edgert.Model:
    """A tiny int8 model; its answers are noise, but always the same noise."""
    return edgert.load(bundles())


@pytest.fixture(scope="session")
def student() -> Path:
    """The real SmolLM2 bundle, pulled and exported by the command a user would run."""
    environment = {key: value for key, value in os.environ.items() if key != "EDGERT_HOME"}
    if REAL_HOME:
        environment["EDGERT_HOME"] = REAL_HOME
    command = [sys.executable, "-m", "edgert", "pull", "smollm2-135m-instruct"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split(" is ready")[0])


@pytest.fixture(scope="session")
def student_fp32(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same student in fp32, the reference its int8 bundle is judged against."""
    checkpoint = next((student.parent.parent / "checkpoints" / student.name).glob("*.gguf"))
    folder = tmp_path_factory.mktemp("reference") / "fp32"
    export(checkpoint, folder, ExportOptions(quant="fp32"))
    return folder


@pytest.fixture(scope="session")
def r1_tokenizer() -> str:
    """The real tokenizer.json of the DeepSeek-R1-Distill-Qwen models."""
    return lzma.decompress((DATA / "r1-distill-qwen" / "tokenizer.json.xz").read_bytes()).decode("utf-8")


@pytest.fixture(scope="session")
def r1_config() -> dict[str, Any]:
    """Their real tokenizer_config.json, with the chat template."""
    return json.loads((DATA / "r1-distill-qwen" / "tokenizer_config.json").read_text("utf-8"))


@pytest.fixture(scope="module")  # its cache is a module's own
def r1(
    tmp_path_factory: pytest.TempPathFactory, r1_tokenizer: str, r1_config: dict[str, Any]
) -> Iterator[edgert.Model]:
    """A tiny model with the real tokenizer and template of DeepSeek-R1-Distill-Qwen."""
    folder = tmp_path_factory.mktemp("r1")
    sizes = {"vocab_size": 151936, "max_position_embeddings": 2048, "eos_token_id": 151643}
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
    source = tiny.write(folder / "c", tiny.Tiny("qwen2", overrides=sizes, generation=generation))
    (source / "tokenizer.json").write_text(r1_tokenizer, "utf-8")
    (source / "tokenizer_config.json").write_text(json.dumps(r1_config), "utf-8")
    bundle = export(source, folder / "b", ExportOptions(calibrate=False, verify=False)).folder
    with edgert.load(bundle) as model:
        yield model
