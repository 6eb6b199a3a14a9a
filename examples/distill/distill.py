"""Distill a small student from a teacher's logits on a CPU.

python examples/distill/distill.py TEACHER FOLDER [--layers 20] [--minutes 40]     # needs torch
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch
from llama import Llama, read, write
from text import AT_ONCE, CONTEXT, SelfTalk, Text, held_back, prose
from train import Distillation, Gap, Progress, Recipe, gap, resume, vital_layers

import edgert
from edgert.export import ExportOptions, export
from edgert.export.checkpoint.source import open_checkpoint
from edgert.saving import save_text

TALK_SHARE = 0.2  # of the minutes; then the layers are chosen, and what is left is for training
SAVE_EVERY_S = 120
SCORED = 512  # tokens of each text by which layers are judged


@dataclass(frozen=True)
class Task:
    """What was asked for."""

    teacher: Path
    folder: Path
    layers: int = 20
    minutes: float = 40.0
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def seconds(self) -> float:
        return 60 * self.minutes


@dataclass(frozen=True)
class Work:
    """The folder beside the student: all that an interrupted run needs to go on."""

    folder: Path

    @property
    def asked(self) -> Path:
        return self.folder / "asked.json"

    @property
    def bundle(self) -> Path:
        return self.folder / "teacher"

    @property
    def talk(self) -> Path:
        return self.folder / "conversations.json"

    @property
    def training(self) -> Path:
        return self.folder / "training.pt"


def claim(task: Task, work: Work) -> None:
    """Make the folder. Raises UsageError if it holds what was begun for another teacher or size."""
    asked = {"teacher": str(task.teacher.resolve()), "layers": task.layers}
    if work.asked.exists() and (begun := json.loads(work.asked.read_text("utf-8"))) != asked:
        raise edgert.UsageError(
            f"{work.folder} holds a run of {begun['layers']} layers from {begun['teacher']}: "
            "go on with these, or delete it"
        )
    work.folder.mkdir(parents=True, exist_ok=True)
    save_text(work.asked, json.dumps(asked))


def converse(teacher: Path, work: Work, seconds: float) -> tuple[Text, Text]:
    """What the teacher says to itself in so many seconds, and prose, in its tokens."""
    if not work.bundle.exists():
        click.echo("exporting the teacher to int8, in which it talks faster")
        export(teacher, work.bundle, ExportOptions(calibrate=False, verify=False))
    context = min(CONTEXT, edgert.open_bundle(work.bundle).manifest.model.context)
    with edgert.load(work.bundle, context=context, conversations=AT_ONCE) as model:
        talk = SelfTalk(model, work.talk)
        if talk.seconds < seconds:
            with click.progressbar(length=int(seconds), label="the teacher talks to itself") as bar:
                for spent in talk.go_on(seconds):
                    bar.update(min(int(spent), int(seconds)) - bar.pos)
        texts = held_back("talk", talk.conversations), prose(model.tokenizer.encode)
    for text in texts:
        click.echo(f"{text.name}: {len(text.train):,} tokens to train on, {len(text.held_out):,} held out")
    return texts


def begin(teacher: Llama, texts: tuple[Text, Text], task: Task) -> Distillation:
    """A student of those of the teacher's layers that matter most, measured before it is trained."""
    size = min(SCORED, *(len(text.train) for text in texts))
    ids = torch.from_numpy(np.stack([text.train[:size] for text in texts]))
    kept = vital_layers(teacher, ids, task.layers)
    run = Distillation(teacher, kept, task.recipe)
    run.progress.before = measure(run, texts)
    return run


def measure(run: Distillation, texts: tuple[Text, Text]) -> dict[str, Gap]:
    """How far the student is from its teacher, by the name of the text."""
    return {text.name: gap(run.teacher, run.student, text, run.recipe.window) for text in texts}


def train(run: Distillation, texts: tuple[Text, Text], work: Work, seconds: float) -> None:
    """Until the time is up. Saved every few minutes, and when it is interrupted."""
    saved = run.progress.seconds
    with click.progressbar(length=int(seconds), label="distilling", item_show_func=shown) as bar:
        try:
            for progress in run.steps(*texts, seconds):
                bar.update(min(int(progress.seconds), int(seconds)) - bar.pos, progress)
                if progress.seconds - saved > SAVE_EVERY_S:
                    saved = progress.seconds
                    run.save(work.training)
        finally:
            run.save(work.training)


def shown(progress: Progress | None) -> str:
    """What the bar says beside itself."""
    return f"{progress.tokens:,} tokens, KL {progress.kl:.3f}" if progress else ""


def report(run: Distillation, after: dict[str, Gap]) -> None:
    """Before and after, on the terminal."""
    progress, spec = run.progress, run.student.spec
    click.echo(
        f"{spec.num_layers} layers (the teacher's {', '.join(map(str, progress.kept))}), "
        f"{spec.parameters / 1e6:.0f} M parameters"
    )
    minutes = progress.seconds / 60
    click.echo(f"trained for {minutes:.0f} minutes: {progress.steps} steps, {progress.tokens:,} tokens")
    for name, now in after.items():
        then = progress.before[name]
        click.echo(
            f"{name}, held out: KL from the teacher {then.kl:.3f} -> {now.kl:.3f} nats per token, "
            f"top-1 agreement {then.top1:.0%} -> {now.top1:.0%}"
        )


def distill(task: Task) -> None:
    """All of it, from wherever an earlier run has come."""
    checkpoint = open_checkpoint(task.teacher)
    teacher, work = read(checkpoint), Work(task.folder.with_name(task.folder.name + ".work"))
    if not 1 <= task.layers <= teacher.spec.num_layers:
        raise edgert.UsageError(f"--layers {task.layers}: the teacher has {teacher.spec.num_layers}")
    claim(task, work)
    texts = converse(task.teacher, work, task.seconds * TALK_SHARE)
    if work.training.exists():
        run = resume(teacher, work.training, task.recipe)
    else:
        run = begin(teacher, texts, task)
    train(run, texts, work, task.seconds * (1 - TALK_SHARE))
    write(run.student, checkpoint, task.folder)
    report(run, measure(run, texts))


@click.command()
@click.argument("teacher", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layers", default=Task.layers, show_default=True, help="Layers of the student.")
@click.option("--minutes", default=Task.minutes, show_default=True, help="Wall time, all together.")
@click.option("--rate", default=Recipe.rate, show_default=True, help="Highest learning rate.")
@click.option("--threads", type=int, help="Of PyTorch; fewer are faster on a machine that is shared.")
def main(teacher: Path, folder: Path, *, layers: int, minutes: float, rate: float, threads: int) -> None:
    """Distill TEACHER, a Hugging Face folder or a .gguf file, into FOLDER, a Hugging Face folder.

    FOLDER.work keeps what was done so far: after an interruption, the same command goes on.
    """
    if folder.exists():
        raise click.UsageError(f"{folder} exists already: choose another place")
    torch.set_num_threads(threads or torch.get_num_threads())
    try:
        distill(Task(teacher, folder, layers, minutes, Recipe(rate=rate)))
    except edgert.EdgertError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
