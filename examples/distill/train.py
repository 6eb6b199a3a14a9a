"""Distillation: which layers of the teacher to keep, and how they learn its logits."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from llama import Llama, keep_layers
from text import Text
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class Recipe:
    """What may be varied. A step reads `batch` windows of `window` tokens, a `talk` share of them from what
    the teacher said; the learning rate climbs to `rate`, then falls with the clock.
    """

    batch: int = 1
    window: int = 256
    talk: float = 0.6
    rate: float = 3e-4
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Gap:
    """How far a student is from its teacher on a text: nats per token, and how often both agree."""

    kl: float
    top1: float


@dataclass
class Progress:
    """What a run has done so far; `kept` are the numbers of the teacher's layers."""

    kept: list[int]
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)  # nats per token, of the latest steps
    before: dict[str, Gap] = field(default_factory=dict)  # by the name of the text, without any training

    @property
    def kl(self) -> float:
        """Mean KL divergence of the latest steps, nats per token."""
        return sum(self.recent) / len(self.recent) if self.recent else math.nan


def divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean KL divergence of logits (…, vocab) from the teacher's, in nats per position.

    With a temperature both are softened first, and the gradient is scaled back (Hinton et al., 2015).
    """
    p = F.log_softmax(teacher.flatten(0, -2) / temperature, dim=-1)
    q = F.log_softmax(student.flatten(0, -2) / temperature, dim=-1)
    return F.kl_div(q, p, reduction="batchmean", log_target=True) * temperature**2


def gap(teacher: Llama, student: Llama, text: Text, window: int = 256, windows: int = 6) -> Gap:
    """On the part of a text that is held out, in its first few windows."""
    ids = torch.from_numpy(text.held_out[: window * windows])
    kl = agreed = 0.0
    with torch.no_grad():
        for part in torch.split(ids, window):
            theirs, ours = teacher.logits(part[None]), student.logits(part[None])
            kl += float(divergence(theirs, ours)) * len(part)
            agreed += float((theirs.argmax(-1) == ours.argmax(-1)).sum())
    return Gap(kl / len(ids), agreed / len(ids))


def vital_layers(teacher: Llama, ids: Tensor, layers: int) -> list[int]:
    """Numbers of so many layers: those that turn the hidden states of ids (batch, tokens) most.

    That is the block influence of ShortGPT (Men et al., 2024).
    """
    turns, hidden = [], teacher.embed(ids)
    with torch.no_grad():
        for number in range(teacher.spec.num_layers):
            before, hidden = hidden, teacher.layer(number, hidden)
            turns.append(1 - float(F.cosine_similarity(before, hidden, dim=-1).mean()))
    return sorted(sorted(range(len(turns)), key=turns.__getitem__)[len(turns) - layers :])


class Distillation:
    """A student on its way. `save` keeps all that `resume` needs to go on as if nothing had happened."""

    def __init__(self, teacher: Llama, kept: Sequence[int], recipe: Recipe) -> None:
        self.teacher, self.recipe = teacher, recipe
        self.progress = Progress(list(kept))
        self.student = keep_layers(teacher, kept)
        self.trained = {
            name: weight.requires_grad_()
            for name, weight in self.student.weights.items()
            if name.startswith("layers.")  # embedding, head and last norm stay the teacher's
        }
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )

    def steps(self, talk: Text, prose: Text, seconds: float) -> Iterator[Progress]:
        """Train until so many seconds are spent, those before an interruption included; yields each step."""
        begun = time.monotonic() - self.progress.seconds
        while self.progress.seconds < seconds:
            self._rate(self.progress.seconds / seconds)
            rng = np.random.default_rng((self.recipe.seed, self.progress.steps))
            windows = [
                (talk if rng.random() < self.recipe.talk else prose).window(rng, self.recipe.window)
                for _ in range(self.recipe.batch)
            ]
            loss = sum(self._learn(torch.from_numpy(window)[None]) for window in windows) / len(windows)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.progress.recent = [*self.progress.recent[-49:], loss]
            self.progress.steps += 1
            self.progress.tokens += sum(map(len, windows))
            self.progress.seconds = time.monotonic() - begun
            yield self.progress

    def _learn(self, ids: Tensor) -> float:
        """Add the gradients of one window; its loss."""
        with torch.no_grad():
            goal = self.teacher.logits(ids)
        loss = divergence(goal, self.student.logits(ids), self.recipe.temperature)
        torch.autograd.backward(loss / self.recipe.batch)
        return float(loss.detach())

    def _rate(self, done: float) -> None:
        warm = min(1.0, (self.progress.steps + 1) / 20)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)

    def save(self, path: Path) -> None:
        """Written aside and renamed: a run that is killed here has lost nothing."""
        state = {
            "progress": asdict(self.progress),
            "weights": self.trained,
            "optimizer": self.optimizer.state_dict(),
        }
        with (aside := path.with_suffix(".partial")).open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)


def resume(teacher: Llama, path: Path, recipe: Recipe) -> Distillation:
    """A saved run."""
    state = torch.load(path, weights_only=True)
    run = Distillation(teacher, state["progress"]["kept"], recipe)
    before = {name: Gap(**found) for name, found in state["progress"].pop("before").items()}
    run.progress = Progress(**state["progress"], before=before)
    with torch.no_grad():
        for name, weight in run.trained.items():
            weight.copy_(state["weights"][name])
    run.optimizer.load_state_dict(state["optimizer"])
    return run
