"""Tracing: what Optimum takes in memory and time for so many weights, from which `edgert export` warns.

python benchmarks/tracing.py [MILLIONS ...]     # needs the [optimum] extra; Linux

Each is a Llama of random fp32 weights and of about that size; 4 bytes each are written to disk, twice.
Memory is that of the process that traces, with what it has mapped of files.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import process_tree
from safetensors.numpy import save_file

from edgert.export.optimum_road import tracing
from edgert.export.optimum_road.student import count_weights

LAYERS, HEAD_DIM, VOCAB = 24, 64, 32000


def write_checkpoint(folder: Path, millions: int) -> Path:
    """A folder without a tokenizer, which tracing doesn't read; layers of 12 times hidden² weights."""
    hidden = HEAD_DIM * round((millions * 1e6 / LAYERS / 12) ** 0.5 / HEAD_DIM)
    inner = 8 * hidden // 3 // HEAD_DIM * HEAD_DIM
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": hidden // HEAD_DIM,
        "num_key_value_heads": hidden // HEAD_DIM,
        "vocab_size": VOCAB,
        "tie_word_embeddings": True,
    }
    shapes = dict.fromkeys(("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"), (hidden, hidden))
    shapes |= {"mlp.gate": (inner, hidden), "mlp.up": (inner, hidden), "mlp.down": (hidden, inner)}
    rng = np.random.default_rng(0)
    tensors = {"model.embed_tokens.weight": rng.random((VOCAB, hidden), np.float32)}
    tensors["model.norm.weight"] = np.ones(hidden, np.float32)
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        tensors |= {f"{name}{n}_proj.weight": rng.random(shape, np.float32) for n, shape in shapes.items()}
        for norm in ("input", "post_attention"):
            tensors[f"{name}{norm}_layernorm.weight"] = np.ones(hidden, np.float32)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@click.command
@click.argument("millions", type=int, nargs=-1)
def main(millions: tuple[int, ...]) -> None:
    """Trace a model of each size, in millions of weights, and print a table."""
    print("| weights | peak memory | of processors | on the clock |\n|---|---|---|---|")
    for size in millions or (135, 500, 1000):
        with tempfile.TemporaryDirectory() as scratch:
            source, target = write_checkpoint(Path(scratch) / "checkpoint", size), Path(scratch) / "traced"
            cost = process_tree.measure(sys.executable, "-m", tracing.__name__, source, target)
            weights, memory = count_weights(source) / 1e6, cost.peak / 1e9
        print(f"| {weights:.0f} M | {memory:.2f} GB | {cost.cpu:.0f} s | {cost.seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
