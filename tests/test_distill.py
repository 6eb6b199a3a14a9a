"""The example that distills a student: its texts without torch; with it (`make test-parity`), all of it."""

import importlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import edgert
from edgert.errors import CheckpointError
from edgert.export import ExportOptions, export
from edgert.export.checkpoint.source import open_checkpoint

EXAMPLE = Path(__file__).parent.parent / "examples" / "distill"
LAYERS = 6
SOON_S = 300


@pytest.fixture
def example(monkeypatch):
    """A module of the example by name, imported as the script imports it."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module
    for name in ("distill", "llama", "text", "train"):
        sys.modules.pop(name, None)


@pytest.fixture
def teacher(tmp_path):
    return tiny.write(tmp_path / "teacher", tiny.Tiny(overrides={"num_hidden_layers": LAYERS}))


@pytest.fixture
def pupils(example, teacher):
    """The modules that need torch, and the teacher's checkpoint, read by them."""
    pytest.importorskip("torch")
    checkpoint = open_checkpoint(teacher)
    return example("llama"), example("train"), checkpoint, example("llama").read(checkpoint)


@pytest.fixture
def text(example):
    """Tokens in no order, which a tiny model with random weights reads as well as any."""
    ids = np.random.default_rng(5).integers(5, tiny.VOCAB, 8000)
    return example("text").Text("tokens", ids[300:], ids[:300])


def test_talk_is_questions_and_answers_of_the_teacher(example, bundles, tmp_path):
    module = example("text")
    with edgert.load(bundles("llama")) as model:
        talk = module.SelfTalk(model, tmp_path / "talk.json")
        spent = next(iter(talk.go_on(0.0)))
        opening = model.tokens_of([{"role": "user", "content": "fox"}])[:2]
        assert 0 < spent == talk.seconds
        assert talk.conversations and all(ids[:2] == opening for ids in talk.conversations)
        again = module.SelfTalk(model, tmp_path / "talk.json")
        assert (again.seconds, again.conversations) == (talk.seconds, talk.conversations)


def test_an_answer_follows_a_question_that_ended(example, bundles, tmp_path):
    module = example("text")
    with edgert.load(bundles("llama")) as model:
        talk = module.SelfTalk(model, tmp_path / "talk.json")
        list(talk.go_on(0.0))
        answering = model.tokenizer.encode_rendered("<|assistant|>")
        cut_off = [ids for ids in talk.conversations if len(ids) == 2 + module.QUESTION_TOKENS]
        answered = [ids for ids in talk.conversations if answering[0] in ids]
        assert cut_off or answered
        assert all(len(ids) <= model.context for ids in talk.conversations)


def test_what_is_held_out_is_not_trained_on(example):
    module = example("text")
    talk = module.held_back("talk", [[number] * 3 for number in range(17)])
    assert set(talk.held_out) == {0, 8, 16} and set(talk.train) == set(range(17)) - {0, 8, 16}
    prose = module.prose(lambda text: [len(text)])
    assert prose.train[0] > 100_000 and 10_000 < prose.held_out[0] < prose.train[0]


def test_windows_come_from_the_training_part(example):
    module = example("text")
    text = module.Text("t", np.arange(100), np.arange(900, 999))
    window = text.window(np.random.default_rng(0), 30)
    assert np.array_equal(window, np.arange(window[0], window[0] + 30)) and window[-1] < 100
    assert np.array_equal(text.window(np.random.default_rng(0), 300), text.train)


@pytest.mark.parity
def test_the_student_is_the_same_model_to_edgert(pupils, tmp_path):
    import torch

    llama, _, checkpoint, model = pupils
    student = llama.keep_layers(model, [0, 2, 5])
    llama.write(student, checkpoint, tmp_path / "student")
    export(tmp_path / "student", tmp_path / "bundle", ExportOptions(quant="fp32"))
    ids = list(range(5, 95))
    with torch.no_grad():
        expected = student.logits(torch.tensor([ids]))[0].numpy()
    with edgert.load(tmp_path / "bundle") as bundle:
        assert np.abs(bundle.logits(ids) - expected).max() < 1e-3
        assert bundle.tokens_of("fox")


@pytest.mark.parity
def test_the_layers_that_are_dropped_are_those_that_matter_least(pupils):
    import torch

    llama, train, _, model = pupils
    for idle in (1, 4):
        for name in ("o", "down"):
            model.weights[f"layers.{idle}.{name}.weight"].zero_()
    ids = torch.arange(5, 69).reshape(2, 32)
    kept = train.vital_layers(model, ids, 4)
    assert kept == [0, 2, 3, 5]
    same = llama.keep_layers(model, kept)
    assert torch.allclose(same.logits(ids), model.logits(ids), atol=1e-4)


@pytest.mark.parity
def test_distilling_brings_the_student_closer(pupils, text):
    _, train, _, model = pupils
    recipe = train.Recipe(window=64, rate=2e-3)
    run = train.Distillation(model, [0, 1, 3, 5], recipe)
    before = train.gap(model, run.student, text, window=64)
    shared = model.weights["embedding.weight"].clone()
    for _ in itertools.islice(run.steps(text, text, 3600), 150):
        pass
    after = train.gap(model, run.student, text, window=64)
    assert after.kl < 0.8 * before.kl
    assert (model.weights["embedding.weight"] == shared).all()
    assert run.progress.steps == 150 and run.progress.tokens == 150 * 64


@pytest.mark.parity
def test_an_interrupted_run_goes_on_where_it_was(pupils, text, tmp_path):
    import torch

    _, train, _, model = pupils
    recipe = train.Recipe(window=32)
    run = train.Distillation(model, [0, 1, 3, 5], recipe)
    run.progress.before = {"tokens": train.Gap(1.0, 0.5)}
    for _ in itertools.islice(run.steps(text, text, 3600), 3):
        pass
    run.save(tmp_path / "training.pt")
    again = train.resume(model, tmp_path / "training.pt", recipe)
    assert again.progress == run.progress
    for each in (run, again):
        each.progress.seconds = 0.0  # the rate follows the clock
        next(each.steps(text, text, 1e9))
    assert all(torch.allclose(run.trained[n], again.trained[n], atol=1e-6) for n in run.trained)


@pytest.mark.parity
def test_other_models_are_refused(example, checkpoints):
    pytest.importorskip("torch")
    for family in ("qwen3", "llama3", "gemma3"):
        with pytest.raises(CheckpointError, match="llama.py"):
            example("llama").read(open_checkpoint(checkpoints(family)))


@pytest.mark.parity
def test_the_command(teacher, tmp_path):
    pytest.importorskip("torch")
    folder = tmp_path / "student"
    command = [sys.executable, str(EXAMPLE / "distill.py"), str(teacher), str(folder)]
    options = ["--layers", "4", "--minutes", "0.1", "--threads", "1"]
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        timeout=SOON_S,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode()
    assert "talk, held out: KL from the teacher " in said and "prose, held out: " in said
    assert json.loads((folder / "config.json").read_text("utf-8"))["num_hidden_layers"] == 4
    assert open_checkpoint(folder).spec.num_layers == 4
    done = subprocess.run(command, capture_output=True, timeout=SOON_S, check=False)
    assert done.returncode == 2 and b"exists already" in done.stderr
    shutil.rmtree(folder)
    done = subprocess.run([*command, "--layers", "3"], capture_output=True, timeout=SOON_S, check=False)
    assert done.returncode == 1 and b"holds a run of 4 layers" in done.stderr
