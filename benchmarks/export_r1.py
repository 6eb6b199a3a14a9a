"""Export at the R1 shape: seconds and peak memory, on random weights of DeepSeek-R1-Distill-Qwen-1.5B's size.

python benchmarks/export_r1.py [FOLDER]     # needs 6 GB of disk
"""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from edgert import open_bundle

FILES = Path(__file__).parent.parent / "tests" / "data" / "r1-distill-qwen"
PEAK = r"""
import re, sys
from pathlib import Path
from edgert.export import ExportOptions, export
whole, text = sys.argv[3] == "whole", sys.argv[4]
options = ExportOptions(force=True, calibrate=whole, verify=whole, calibration=Path(text) if text else None)
export(Path(sys.argv[1]), Path(sys.argv[2]), options)
# Not getrusage: on Linux a child inherits its parent's peak there.
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def write_checkpoint(folder: Path) -> None:
    """Config and tokenizer are the real ones, the bf16 weights are random."""
    folder.mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        shutil.copy(FILES / name, folder)
    (folder / "tokenizer.json").write_bytes(lzma.decompress((FILES / "tokenizer.json.xz").read_bytes()))
    config = json.loads((folder / "config.json").read_text())
    rng, index = np.random.default_rng(0), {}
    for shard, (prefix, shapes) in enumerate(_shapes(config).items()):
        tensors = {
            prefix + name: (rng.standard_normal(shape, np.float32) * 0.02).astype(ml_dtypes.bfloat16)
            for name, shape in shapes.items()
        }
        index.update(dict.fromkeys(tensors, f"model-{shard:05}.safetensors"))
        save_file(tensors, folder / f"model-{shard:05}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def _shapes(config: dict[str, int]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Tensors of each shard: embedding, every layer, head."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
        layer[f"self_attn.{name}_proj.weight"] = (rows, hidden)
        layer[f"self_attn.{name}_proj.bias"] = (rows,)
    layers = {f"model.layers.{i}.": layer for i in range(config["num_hidden_layers"])}
    ends: dict[str, dict[str, tuple[int, ...]]] = {
        "model.": {"embed_tokens.weight": (vocab, hidden), "norm.weight": (hidden,)},
        "": {"lm_head.weight": (vocab, hidden)},
    }
    return ends | layers


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option(
    "--whole", is_flag=True, help="Calibrate and measure the bundle, too: minutes instead of seconds."
)
@click.option("--text", default="", help="A shorter text than the built-in sample, to see the memory sooner.")
def main(folder: Path | None, whole: bool, text: str) -> None:
    """Measure in FOLDER, which keeps the checkpoint for the next time; without it in a temporary one.

    The quick export rounds to the nearest step and does not measure what that did.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = folder or Path(scratch)
        if not (root / "checkpoint").exists():
            write_checkpoint(root / "checkpoint")
        start = time.perf_counter()
        command = [sys.executable, "-c", PEAK, str(root / "checkpoint"), str(root / "bundle")]
        command += ["whole" if whole else "quick", text]
        peak = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout) * 1024
        seconds = time.perf_counter() - start
        bundle = open_bundle(root / "bundle")
        click.echo(
            f"{bundle.manifest.model.parameters / 1e9:.2f} B parameters, bf16: {seconds:.1f} s, "
            f"{peak / 1e6:.0f} MB peak, bundle of {bundle.size / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
