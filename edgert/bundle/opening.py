"""Opening: the manifest read and checked, the files found."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from edgert.errors import BundleError, UsageError

FORMAT_VERSION = 3
MANIFEST = "edgert.json"
GRAPH = "model.onnx"
DATA = "model.onnx.data"
GENAI_GRAPH = "genai.onnx"
GENAI_CONFIG = "genai_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GOLDEN = "golden.json"
MACHINE = "machine"  # folder of what was made or measured on the machine that the bundle lies on
REPLACED = f"{MACHINE}/replaced.json"  # names of files that a copy made there stands for

Facts = TypeVar("Facts")
NOTHING: Mapping[str, float] = {}
SIMPLE: Mapping[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of the model; `context` is the most tokens this bundle can hold."""

    family: str
    parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context: int
    tied_embeddings: bool


@dataclass(frozen=True)
class Quantization:
    """How the weights are stored: weights per scale of each kind of matrix (none for fp32).

    `bits` is that of most matrices, `exceptions` those of single ones by name, and `bits_per_weight` what all
    of them take with their scales, tied tables once. `rounding` is "nearest" or "gptq"; `rotated` says that
    the model is stored in another basis, `hadamard` how many inputs of down are rotated together at run time.
    """

    scheme: str
    bits: int
    block_size: Mapping[str, int] = field(default_factory=dict)
    accuracy_level: int = 0
    exceptions: Mapping[str, int] = field(default_factory=dict)
    bits_per_weight: float = 0.0
    rounding: str = "nearest"
    rotated: bool = False
    hadamard: int = 0


@dataclass(frozen=True)
class Fidelity:
    """How far a model's predictions are from its fp32 original's, over `tokens` positions of a text.

    KL(original ‖ model) in nats a token, mean and 99th percentile; `top1`: the share of positions where both
    think the same token the likeliest; perplexities of both on the text.
    """

    tokens: int
    mean_kl: float
    p99_kl: float
    top1: float
    perplexity: float
    reference_perplexity: float

    def __str__(self) -> str:
        return (
            f"mean KL {self.mean_kl:.4f}, 99th percentile {self.p99_kl:.4f}, "
            f"top-1 agreement {self.top1:.1%}, "
            f"perplexity {self.perplexity:.2f}, fp32 {self.reference_perplexity:.2f}; {self.tokens} tokens"
        )


@dataclass(frozen=True)
class GraphFacts:
    """One graph of a bundle: how it reads most weights ("blocks8", "blocks4", "rows8", "fp32") and for which
    devices, how it caches keys and values, and its measured fidelity, if it was measured.
    """

    form: str
    devices: tuple[str, ...]
    kv: str
    fidelity: Fidelity | None = None


@dataclass(frozen=True)
class GenerationDefaults:
    """The model's own sampling settings and special tokens. `temperature` 0 is greedy, `top_k` 0 is off.

    Every one of `eos_token_ids` ends an answer; `bos_token` and `eos_token` are the texts that the chat
    template may spell out.
    """

    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None = None
    bos_token: str = ""
    eos_token: str = ""
    add_bos: bool = False
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Origin:
    """Where the weights come from and under which licence."""

    source: str
    license: str | None = None


@dataclass(frozen=True)
class FileFacts:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """edgert.json in code. The first of `graphs` is the one to run unless another is asked for; `sample` says
    on which text their fidelity was measured.
    """

    name: str
    model: ModelFacts
    quantization: Quantization
    devices: tuple[str, ...]
    generation: GenerationDefaults
    origin: Origin
    edgert: str
    files: Mapping[str, FileFacts]
    graphs: Mapping[str, GraphFacts]
    sample: str = ""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def fidelity_lines(self) -> list[str]:
        """The passport in words: what was measured of each graph, or that nothing was."""
        if self.quantization.scheme == "fp32" and len(self.graphs) == 1:
            return [f"{'fidelity':12}the original itself, in fp32"]
        lines = []
        forms = {facts.form for facts in self.graphs.values()}
        for facts in self.graphs.values():
            label = f"kv {facts.kv}" if len(forms) == 1 else f"{facts.form}, kv {facts.kv}"
            label = "fidelity" if len(self.graphs) == 1 else label
            measured = facts.fidelity and f"{facts.fidelity}, on {self.sample}"
            lines.append(f"{label:11} {measured or 'not measured (--no-verify)'}")
        return lines


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and manifest."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        return self.folder / name

    def text(self, name: str) -> str | None:
        """Content of a text file, None if the bundle has none of that name. Raises BundleError."""
        try:
            return self.path(name).read_text("utf-8") if name in self.manifest.files else None
        except UnicodeDecodeError as error:
            raise BundleError(f"{self.path(name)}: damaged, no text; export or pull it again") from error

    def graph(
        self,
        kv: str | None = None,
        usual: str = "fp32",
        slower: Mapping[str, float] = NOTHING,
        device: str = "",
    ) -> str:
        """File name of the graph to run: of those that cache keys and values as asked, the quickest here.

        `slower`: how many times the best form's time each form takes on the device, 1 where it says nothing;
        of equals it is the graph that was made for `device`. Without a `kv` it is 8 bits where the export
        asked for them, else the device's `usual` if there is such a graph. Raises UsageError.
        """
        graphs = self.manifest.graphs
        kinds = list(dict.fromkeys(facts.kv for facts in graphs.values()))
        if kv is None:
            kv = usual if kinds[0] == "fp32" and usual in kinds else kinds[0]
        if kv not in kinds:
            only = ", ".join(kinds)
            raise UsageError(f"{self.folder} caches keys and values in {only} only: export it with --kv {kv}")
        suited = [name for name, facts in graphs.items() if facts.kv == kv]
        return min(
            suited, key=lambda name: (slower.get(graphs[name].form, 1.0), device not in graphs[name].devices)
        )

    @property
    def size(self) -> int:
        """Bytes on disk, without what was made on this machine."""
        return sum(facts.size for facts in self.present.values())

    @property
    def replaced(self) -> tuple[str, ...]:
        """Names of files that `edgert prepare --replace` removed, since its copy holds what they held."""
        path = self.path(REPLACED)
        try:
            return tuple(map(str, json.loads(path.read_text("utf-8")))) if path.exists() else ()
        except (ValueError, TypeError) as error:
            raise BundleError(f"{path}: damaged ({error}); export or pull the bundle again") from error

    @property
    def present(self) -> dict[str, FileFacts]:
        """The files that must be there."""
        absent = self.replaced
        return {name: facts for name, facts in self.manifest.files.items() if name not in absent}

    def check_hashes(self) -> None:
        """Compare every file with its SHA-256. Raises BundleError naming the first that differs."""
        for name, facts in self.present.items():
            found = file_facts(self.path(name))
            if found.sha256 != facts.sha256:
                raise BundleError(f"{self.path(name)}: damaged (another SHA-256); export or pull it again")


def open_bundle(folder: Path) -> Bundle:
    """Read the manifest and check that every file is there with its size. Raises BundleError."""
    path = folder / MANIFEST
    if not path.exists():
        raise BundleError(_no_bundle(folder))
    bundle = Bundle(folder, _read_manifest(path))
    for name, facts in bundle.present.items():
        if not bundle.path(name).is_file():
            raise BundleError(f"{bundle.path(name)}: missing from the bundle; export or pull it again")
        size = bundle.path(name).stat().st_size
        if size != facts.size:
            raise BundleError(
                f"{bundle.path(name)}: {size} bytes instead of {facts.size}; export or pull it again"
            )
    return bundle


def _no_bundle(path: Path) -> str:
    """What a path is instead of a bundle, and the command that helps."""
    export = f"export it first: edgert export {shlex.quote(str(path))}"
    if path.is_dir() and (path / "config.json").exists():
        return f"{path}: a checkpoint, not a bundle; {export} {shlex.quote(path.resolve().name + '-int8')}"
    if path.is_dir():
        return f"{path}: a folder, but not a bundle: it has no {MANIFEST}"
    if path.suffix.lower() == ".gguf" and path.exists():
        return f"{path}: a checkpoint, not a bundle; {export} {shlex.quote(path.stem + '-int8')}"
    if path.exists():
        return f"{path}: a file, but a bundle is a folder; `edgert export` makes one"
    return f"{path}: no such bundle; make one with `edgert export`, or `edgert pull` a student by name"


def file_facts(path: Path) -> FileFacts:
    """Size and hash of a file on disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return FileFacts(path.stat().st_size, digest.hexdigest())


def _read_manifest(path: Path) -> Manifest:
    try:
        table = json.loads(path.read_text("utf-8"))
        version = table["format_version"]
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{path}: bundle format {version}, this edgert reads {FORMAT_VERSION}: "
                "update edgert or export again"
            )
        return _manifest(table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: not a valid manifest ({type(error).__name__}: {error})") from error


def _manifest(table: Mapping[str, Any]) -> Manifest:
    generation = dict(table["generation"], eos_token_ids=tuple(table["generation"]["eos_token_ids"]))
    for name in (*table["files"], *table["graphs"]):
        if Path(name).name != name:
            raise ValueError(f"file name {name!r} leaves the bundle")
    return Manifest(
        name=table["name"],
        model=_facts(ModelFacts, table["model"]),
        quantization=_facts(Quantization, table["quantization"]),
        devices=tuple(table["devices"]),
        generation=_facts(GenerationDefaults, generation),
        origin=_facts(Origin, table["origin"]),
        edgert=table["edgert"],
        files={name: _facts(FileFacts, facts) for name, facts in table["files"].items()},
        graphs={name: _graph(facts) for name, facts in table["graphs"].items()},
        sample=table["sample"],
        format_version=table["format_version"],
    )


def _graph(table: Mapping[str, Any]) -> GraphFacts:
    measured = table["fidelity"]
    return GraphFacts(
        table["form"], tuple(table["devices"]), table["kv"], measured and _facts(Fidelity, measured)
    )


def _facts(kind: type[Facts], table: Mapping[str, Any]) -> Facts:
    """A dataclass from a JSON object; fields that a later edgert may add are left alone."""
    hints = get_type_hints(kind)
    for key, value in table.items():
        wanted = SIMPLE.get(hints.get(key))
        if wanted and not isinstance(value, wanted):
            raise TypeError(f"'{key}' can't be {value!r}")
    return kind(**{key: value for key, value in table.items() if key in hints})
