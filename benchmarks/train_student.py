"""Train a small Llama on text any machine has: a student whose weights were never quantized.

python benchmarks/train_student.py FOLDER [--minutes 60] [--check]     # needs torch
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from corpus import write_corpus
from prose import prose
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import edgert
from edgert.export import ExportOptions, export

BOS, EOS = "<|bos|>", "<|end|>"
CONTEXT, VOCAB = 512, 6144
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "float32",
}


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """A byte-level BPE of VOCAB tokens that puts BOS in front."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(documents, trainer)
    return made


# --- model: modules are named so that the state dict has Hugging Face's names


class Attention(nn.Module):
    """Causal attention with rotated queries and keys, several queries to a key."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, self.dim = config["hidden_size"], config["head_dim"]
        q, kv = config["num_attention_heads"] * self.dim, config["num_key_value_heads"] * self.dim
        self.q_proj = nn.Linear(hidden, q, bias=False)
        self.k_proj = nn.Linear(hidden, kv, bias=False)
        self.v_proj = nn.Linear(hidden, kv, bias=False)
        self.o_proj = nn.Linear(q, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        repeat = q.shape[1] // k.shape[1]
        q, k = (_rotate(part, cos, sin).to(v.dtype) for part in (q, k))
        k, v = (part.repeat_interleave(repeat, dim=1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention and MLP, each normed before and added to the stream."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = nn.RMSNorm(hidden, eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps)
        self.mlp = Mlp(hidden, config["intermediate_size"])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):
    """All but the head, which is the embedding again."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden = config["hidden_size"]
        self.embed_tokens = nn.Embedding(config["vocab_size"], hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(hidden, config["rms_norm_eps"])

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.norm(x)
        return out


class Llama(nn.Module):
    """Token ids to logits."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, layers = config["head_dim"], config["num_hidden_layers"]
        self.model = Body(config)
        rates = config["rope_theta"] ** -(torch.arange(0, dim, 2) / dim)
        angles = torch.outer(torch.arange(config["max_position_embeddings"]).float(), rates)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # What is added to the stream starts smaller, so that depth does not blow it up.
                into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * layers) if into_stream else 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        stream: Tensor = self.model(ids, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
        return F.linear(stream, self.model.embed_tokens.weight)


# --- training


@dataclass
class Progress:
    """What a run has done so far; kept beside the weights as training.json."""

    parameters: int = 0
    steps: int = 0
    tokens: int = 0
    minutes: float = 0.0
    train_loss: float = math.nan
    held_out_loss: float = math.nan
    bits_per_byte: float = math.nan
    history: list[tuple[float, int, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """What of the training may be varied."""

    minutes: float = 60.0
    batch: int = 1
    rate: float = 1.5e-3
    seed: int = 0


def loss(model: nn.Module, windows: Tensor) -> Tensor:
    """Mean cross-entropy of windows; each is predicted from a BOS."""
    ids = F.pad(windows[:, :-1], (1, 0), value=0)
    return F.cross_entropy(model(ids).flatten(0, 1), windows.flatten())


@torch.inference_mode()
def held_out(model: nn.Module, tokenizer: Tokenizer) -> tuple[float, float]:
    """Nats per token and bits per byte of the held-out prose, in windows of the context."""
    ids = torch.tensor(tokenizer.encode(prose()).ids)
    total = sum(float(loss(model, window[None])) * len(window) for window in torch.split(ids, CONTEXT))
    return total / len(ids), total / math.log(2) / len(prose().encode())


def train(model: Llama, tokens: np.ndarray, tokenizer: Tokenizer, folder: Path, recipe: Recipe) -> Progress:
    """Spend the minutes; the learning rate follows the clock, so that the schedule always ends."""
    rng = np.random.default_rng(recipe.seed)
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    norms = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99), fused=True)
    progress = Progress(sum(weight.numel() for weight in model.parameters()))
    order: Iterator[int] = iter(())
    recent: list[float] = []
    start, reported = time.monotonic(), 0.0
    with click.progressbar(length=1000, label="training") as bar:
        while (done := (time.monotonic() - start) / 60 / recipe.minutes) < 1:
            warm = min(1.0, done / 0.02)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * warm * (0.03 + 0.97 * (1 + math.cos(math.pi * done)) / 2)
            windows: list[np.ndarray] = []
            while len(windows) < recipe.batch:
                if (at := next(order, None)) is None:  # another epoch, its windows elsewhere
                    first = rng.integers(CONTEXT)
                    order = iter(rng.permutation(np.arange(first, len(tokens) - CONTEXT, CONTEXT)))
                    continue
                windows.append(tokens[at : at + CONTEXT].astype(np.int64))
            found = loss(model, torch.from_numpy(np.stack(windows)))
            torch.autograd.backward(found)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            recent = [*recent[-199:], found.item()]
            progress.steps += 1
            progress.tokens += recipe.batch * CONTEXT
            bar.update(int(done * 1000) - bar.pos)
            if done - reported >= 0.05:
                reported = done
                _report(model, tokenizer, folder, progress, recent, start)
    _report(model, tokenizer, folder, progress, recent, start)
    return progress


def _report(
    model: Llama, tokenizer: Tokenizer, folder: Path, progress: Progress, recent: list[float], start: float
) -> None:
    """Measure, say so, and keep the weights: an interruption loses minutes, not the run."""
    progress.minutes = (time.monotonic() - start) / 60
    progress.train_loss = sum(recent) / len(recent)
    progress.held_out_loss, progress.bits_per_byte = held_out(model, tokenizer)
    row = (progress.minutes, progress.tokens, progress.train_loss, progress.held_out_loss)
    progress.history.append(row)
    click.echo(
        f"\n{progress.minutes:5.1f} min, step {progress.steps}, {progress.tokens / 1e6:.2f} M tokens: "
        f"train {progress.train_loss:.3f}, held out {progress.held_out_loss:.3f} "
        f"({progress.bits_per_byte:.3f} bits per byte)"
    )
    state = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(state, folder / "model.partial", {"format": "pt"})
    (folder / "model.partial").replace(folder / "model.safetensors")
    (folder / "training.json").write_text(json.dumps(asdict(progress), indent=1), "utf-8")


# --- the folder


def prepare(folder: Path, work: Path) -> tuple[Tokenizer, np.ndarray]:
    """Corpus, tokenizer and config; the tokens of the corpus."""
    if not (corpus := work / "corpus.json").exists():
        write_corpus(corpus)
    documents = json.loads(corpus.read_text("utf-8"))
    tokenizer = train_tokenizer(documents)
    tokens = np.concatenate(
        [np.array([*encoded.ids, 1], np.uint16) for encoded in tokenizer.encode_batch(documents)]
    )
    size = sum(len(text.encode()) for text in documents)
    click.echo(f"corpus of {size / 1e6:.1f} MB, {len(tokens) / 1e6:.2f} M tokens")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": BOS, "eos_token": EOS, "add_bos_token": True, "model_max_length": CONTEXT}
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(named, indent=1), "utf-8")
    return tokenizer, tokens


def check(folder: Path) -> float:
    """The largest difference of logits between this module and edgert's fp32 bundle of the folder."""
    model = load(folder)
    ids = [0, *Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prose()).ids[: CONTEXT - 1]]
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        export(folder, bundle := Path(scratch) / "bundle", ExportOptions(quant="fp32"))
        theirs = edgert.load(bundle).logits(ids)
        return float(np.abs(model(torch.tensor([ids]))[0].numpy() - theirs).max())


def load(folder: Path) -> Llama:
    """The trained model of a folder."""
    model = Llama(json.loads((folder / "config.json").read_text("utf-8")))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--minutes", default=Recipe.minutes, show_default=True)
@click.option("--batch", default=Recipe.batch, show_default=True, help="Windows of 512 tokens per step.")
@click.option("--rate", default=Recipe.rate, show_default=True, help="Peak learning rate.")
@click.option("--threads", default=1, show_default=True)
@click.option("--check", "check_only", is_flag=True, help="Compare FOLDER with edgert's fp32 export of it.")
def main(folder: Path, minutes: float, batch: int, rate: float, threads: int, check_only: bool) -> None:
    """Train into FOLDER, a Hugging Face folder; the corpus stays in FOLDER.work."""
    torch.set_num_threads(threads)
    if not check_only:
        recipe = Recipe(minutes, batch, rate)
        torch.manual_seed(recipe.seed)
        tokenizer, tokens = prepare(folder, folder.with_name(folder.name + ".work"))
        train(Llama(CONFIG), tokens, tokenizer, folder, recipe)
    difference = check(folder)
    click.echo(f"logits differ from edgert's fp32 bundle by at most {difference:.1e}")
    sys.exit(difference >= 1e-3)


if __name__ == "__main__":
    main()
