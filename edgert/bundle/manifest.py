"""Manifest: edgert.json in code. Reading, checking and writing follow the fields; there is no other list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

from edgert.bundle.files import DATA, TOKENIZER, FileFacts, FileName
from edgert.bundle.graph_io import CACHES, GROWING, KV_KINDS, SHARED
from edgert.bundle.record import Between, Invalid, Matching, NotEmpty, OneOf, read_record
from edgert.errors import BundleError

FORMAT_VERSION = 4
READ = (3, 4)  # what this edgert reads: 4 may have files in folders, and says what it requires
GROWING_CACHE = "growing-cache"  # what a bundle requires with a graph whose cache grows
ADAPTERS = "adapters"  # what it requires with adapters to choose from
FEATURES = frozenset({GROWING_CACHE, ADAPTERS})  # what `requires` may name here; format 4 began without any
ADAPTER_NAME = r"\w[\w-]{0,63}"
FORMS = ("blocks8", "blocks4", "rows8", "fp32")  # how a graph reads most of its weights

Count: TypeAlias = Annotated[int, Between(0, 1 << 40)]
Size: TypeAlias = Annotated[int, Between(1, 1 << 24)]
Bits: TypeAlias = Annotated[int, Between(1, 32)]
TokenId: TypeAlias = Annotated[int, Between(0, (1 << 31) - 1)]
Share: TypeAlias = Annotated[float, Between(0, 1)]
AdapterName: TypeAlias = Annotated[str, Matching(ADAPTER_NAME, "letters, digits, - and _")]
GraphName: TypeAlias = Annotated[FileName, Matching(r"[^/]+\.onnx", "a graph beside the manifest")]


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of the model; `context` is the most tokens this bundle can hold."""

    family: str
    parameters: Count
    num_layers: Annotated[int, Between(1, 1 << 16)]
    hidden_size: Size
    intermediate_size: Size
    num_heads: Size
    num_kv_heads: Size
    head_dim: Size
    vocab_size: Size
    context: Annotated[int, Between(1, (1 << 31) - 1)]
    tied_embeddings: bool


@dataclass(frozen=True)
class Quantization:
    """How the weights are stored: weights per scale of each kind of matrix (none for fp32).

    `bits` is that of most matrices, `exceptions` those of single ones by name, and `bits_per_weight` what all
    of them take with their scales, tied tables once. `rounding` is "nearest" or "gptq"; `rotated` says that
    the model is stored in another basis, `hadamard` how many inputs of down are rotated together at run time,
    `spread` that such blocks are mixed with each other then, too. `columns_first`: matrices are stored as
    whole products are packed from, but for a table that is looked up in.
    """

    scheme: Annotated[str, OneOf(("int8", "int4", "mixed", "fp32"))]
    bits: Bits
    block_size: Mapping[str, Size] = field(default_factory=dict)
    accuracy_level: Annotated[int, Between(0, 4)] = 0
    exceptions: Mapping[str, Bits] = field(default_factory=dict)
    bits_per_weight: Annotated[float, Between(0, 64)] = 0.0
    rounding: Annotated[str, OneOf(("nearest", "gptq"))] = "nearest"
    rotated: bool = False
    hadamard: Annotated[int, Between(0, 1 << 24)] = 0
    spread: bool = False
    columns_first: bool = False


@dataclass(frozen=True)
class Fidelity:
    """How far a model's predictions are from its fp32 original's, over `tokens` positions of a text.

    KL(original ‖ model) in nats per token, mean and 99th percentile; `top1`: the share of positions where
    both think the same token the likeliest; perplexities of both on the text. `kl_error`: the standard error
    of the mean, by how much the text's windows differ; 0 where it isn't known.
    """

    tokens: Count
    mean_kl: float
    p99_kl: float
    top1: Share
    perplexity: float
    reference_perplexity: float
    kl_error: float = 0.0

    def __str__(self) -> str:
        error = f" ± {self.kl_error:.4f}" if self.kl_error >= 0.00005 else ""
        return (
            f"mean KL {self.mean_kl:.4f}{error}, 99th percentile {self.p99_kl:.4f}, "
            f"top-1 agreement {self.top1:.1%}, "
            f"perplexity {self.perplexity:.2f}, fp32 {self.reference_perplexity:.2f}; {self.tokens} tokens"
        )


@dataclass(frozen=True)
class GraphFacts:
    """One graph of a bundle: how it reads most weights, one of FORMS, and for which devices, how it caches
    keys and values, one of KV_KINDS, and its measured fidelity, if it was measured. `cache`: one of CACHES.
    `attention_biases`: how many arrays (heads, tokens, context) a run makes to add to scores (ALiBi's).
    `unsigned`: the file that reads the same weights without a sign, for processors on which sums of signed
    8-bit products overflow; it computes the same. Empty if there is none.
    """

    form: Annotated[str, OneOf(FORMS)]
    devices: tuple[str, ...]
    kv: Annotated[str, OneOf(KV_KINDS)]
    fidelity: Fidelity | None = None
    cache: Annotated[str, OneOf(CACHES)] = SHARED
    attention_biases: Annotated[int, Between(0, 1 << 16)] = 0
    unsigned: str = ""


@dataclass(frozen=True)
class GenerationDefaults:
    """The model's own sampling settings and special tokens. `temperature` 0 is greedy, `top_k` 0 is off.

    Every one of `eos_token_ids` ends an answer; `bos_token` and `eos_token` are the texts that the chat
    template may spell out.
    """

    eos_token_ids: tuple[TokenId, ...]
    bos_token_id: TokenId | None = None
    bos_token: str = ""
    eos_token: str = ""
    add_bos: bool = False
    temperature: Annotated[float, Between(0, 100)] = 0.0
    top_k: Annotated[int, Between(0, 1 << 31)] = 0
    top_p: Share = 1.0
    min_p: Share = 0.0
    repetition_penalty: Annotated[float, Between(0.01, 100)] = 1.0


@dataclass(frozen=True)
class Origin:
    """Where the weights come from and under which licence; `adapters`: merged into them, in this order.

    `revision`: the commit, if `source` is a repository of the hub.
    """

    source: str
    license: str | None = None
    adapters: tuple[str, ...] = ()
    revision: str | None = None

    def __str__(self) -> str:
        commit = f" at {self.revision[:12]}" if self.revision else ""
        merged = "".join(f" + {name}" for name in self.adapters)
        return f"{self.source}{commit}{merged}, licence {self.license or 'not stated'}"


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter that lies beside the base: its file, and the folder that it was made from.

    `fidelity`: of the first graph with it, to the fp32 original with it merged, if it was measured.
    """

    file: FileName
    source: str
    fidelity: Fidelity | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """edgert.json in code. The first of `graphs` is the one to run unless another is asked for; `sample` says
    on which text their fidelity was measured. `requires` names what a reader must know to use the bundle.
    `adapters` are those to choose from, by name.
    """

    format_version: int = FORMAT_VERSION
    requires: tuple[str, ...] = ()
    name: str
    model: ModelFacts
    quantization: Quantization
    devices: tuple[str, ...]
    generation: GenerationDefaults
    origin: Origin
    edgert: str
    files: Mapping[FileName, FileFacts]
    graphs: Annotated[Mapping[GraphName, GraphFacts], NotEmpty()]
    sample: str = ""
    adapters: Mapping[AdapterName, AdapterFacts] = field(default_factory=dict)

    @property
    def graph_files(self) -> tuple[str, ...]:
        """Names of all files of graphs."""
        unsigned = [facts.unsigned for facts in self.graphs.values() if facts.unsigned]
        return (*self.graphs, *unsigned)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def fidelity_lines(self) -> list[str]:
        """The passport in words: what was measured of each graph and with each adapter, or nothing."""
        if self.quantization.scheme == "fp32" and len(self.graphs) == 1:
            exact = "the original itself, in fp32"
            return [f"{'fidelity':12}{exact}", *(f"{'':12}with {name}: the same" for name in self.adapters)]
        lines = []
        forms = {facts.form for facts in self.graphs.values()}
        for facts in self.graphs.values():
            label = f"kv {facts.kv}" if len(forms) == 1 else f"{facts.form}, kv {facts.kv}"
            label = "fidelity" if len(self.graphs) == 1 else label
            lines.append(f"{label:11} {self._measured(facts.fidelity)}")
        with_each = ((name, self._measured(facts.fidelity)) for name, facts in self.adapters.items())
        return [*lines, *(f"{'':12}with {name}: {measured}" for name, measured in with_each)]

    def _measured(self, fidelity: Fidelity | None) -> str:
        return f"{fidelity}, on {self.sample}" if fidelity else "not measured (--no-verify)"


def read_manifest(path: Path) -> Manifest:
    """Read and check edgert.json. Raises BundleError that names the file, the value and what it should be."""
    try:
        return parse_manifest(path.read_text("utf-8"))
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    except OSError as error:
        raise BundleError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise BundleError(f"{path}: {error}; export or pull it again") from error


def parse_manifest(text: str) -> Manifest:
    """A manifest of its JSON. Raises Invalid naming the value, or BundleError if another edgert is needed."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid((), f"not a valid manifest ({error})") from error
    _check_version(table)
    manifest = read_record(Manifest, table)
    _check_together(manifest)
    return manifest


def names_listed(path: Path) -> frozenset[str]:
    """The files that a manifest of any format lists; none where it can't be read."""
    try:
        return frozenset(json.loads(path.read_text("utf-8"))["files"])
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return frozenset()


@dataclass(frozen=True)
class _Demands:
    """What is read before anything else: a later format may mean other things by the rest."""

    format_version: Count
    requires: tuple[str, ...] = ()


def _check_version(table: object) -> None:
    from edgert import __version__  # its module imports this one

    demands = read_record(_Demands, table)
    version, known = demands.format_version, " and ".join(map(str, READ))
    if version not in READ:
        remedy = "update edgert" if version > FORMAT_VERSION else "export it again"
        raise BundleError(f"bundle format {version}, edgert {__version__} reads {known}: {remedy}")
    for feature in demands.requires:
        if feature not in FEATURES:
            raise BundleError(
                f"this bundle needs {feature!r}, which edgert {__version__} does not know: update edgert"
            )


def _check_together(manifest: Manifest) -> None:
    """What no field can tell alone. Raises Invalid."""
    model, bos = manifest.model, manifest.generation.bos_token_id
    if model.num_heads % model.num_kv_heads:
        raise Invalid(
            ("model", "num_kv_heads"), f"{model.num_kv_heads} does not divide {model.num_heads} heads"
        )
    if bos is not None and bos >= model.vocab_size:
        raise Invalid(("generation", "bos_token_id"), f"{bos} is not among {model.vocab_size} tokens")
    growing = [name for name, facts in manifest.graphs.items() if facts.cache == GROWING]
    if growing and GROWING_CACHE not in manifest.requires:
        raise Invalid(
            ("graphs", growing[0], "cache"), f"{GROWING} without {GROWING_CACHE!r} among what is required"
        )
    if manifest.adapters and ADAPTERS not in manifest.requires:
        raise Invalid(("adapters",), f"without {ADAPTERS!r} among what is required")
    files = [adapter.file for adapter in manifest.adapters.values()]
    for name in (DATA, TOKENIZER, *manifest.graph_files, *files):
        if name not in manifest.files:
            raise Invalid(("files", name), "missing")
