"""Loading: a bundle opened on a device: which graph, from which copy, on a provider that computes right."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Integral

from edgert import devices
from edgert.bundle import Bundle, graph_io
from edgert.devices import DeviceProfile
from edgert.engine import attention, golden, memory, prepared, promises, providers
from edgert.engine.decoder import Decoder, open_decoder
from edgert.engine.graph_session import GraphSession
from edgert.engine.machine_note import MachineNote
from edgert.errors import DeviceError, EdgertWarning, UsageError

USUAL_CONVERSATIONS, MOST_CONVERSATIONS = 8, 64


@dataclass(frozen=True)
class Loaded:
    """A decoder and what it runs: the graph, the device that was taken in the end, the threads.

    `alike`: a token gets the same logits, bit for bit, read alone or with others of its row.
    """

    decoder: Decoder
    graph: str
    profile: DeviceProfile
    threads: int
    alike: bool = False


@dataclass(frozen=True)
class Settings:
    """How a provider runs a graph: version of its package, its options, length of prefill chunks."""

    package: str
    options: Mapping[str, str]
    prefill_chunk: int


@dataclass(frozen=True)
class Checked:
    """How far a provider's predictions were from the golden prompts, KL in nats per token."""

    settings: Settings
    kl: float


def load(
    bundle: Bundle,
    profile: DeviceProfile,
    context: int | None = None,
    kv: str | None = None,
    *,
    conversations: int | None = 1,
    force: bool = False,
    in_turn: bool = False,
) -> Loaded:
    """Open a bundle on a device; on the CPU instead, with a warning, where the provider answers wrong.

    `context`, `kv`, `conversations`, `force`: as in `edgert.load`. `in_turn`: see `GraphSession`.
    Raises BundleError, DeviceError, DoesNotFit, UsageError.
    """
    facts = bundle.manifest.model
    length = min(profile.context, facts.context) if context is None else context
    if not _whole(length) or not 1 <= length <= facts.context:
        limits = f"a whole number between 1 and the bundle's {facts.context}"
        raise UsageError(f"context must be {limits}, not {length!r}")
    if conversations is not None and not (_whole(conversations) and 1 <= conversations <= MOST_CONVERSATIONS):
        limits = f"a whole number between 1 and {MOST_CONVERSATIONS}"
        raise UsageError(f"conversations must be {limits}, not {conversations!r}")
    on = partial(
        _load, bundle, context=length, kv=kv, conversations=conversations, force=force, in_turn=in_turn
    )
    loaded = on(profile)
    if profile.on_cpu or _answers_right(bundle, loaded):
        return loaded
    del loaded  # its memory is the CPU's now
    return on(devices.detect().profile)


def choose_graph(bundle: Bundle, profile: DeviceProfile, kv: str | None) -> str:
    """The graph to run on a device. Raises UsageError."""
    kinds = providers.kv_kinds(profile.provider.name)
    only = kinds[0] if len(kinds) == 1 else None
    return bundle.graph(kv or only, profile.kv, profile.slower, profile.name)


def plan(
    bundle: Bundle,
    profile: DeviceProfile,
    graph: str,
    context: int,
    machine: devices.Hardware | None,
    *,
    conversations: int = 1,
) -> memory.MemoryPlan:
    """What a graph takes on a device, from its prepared copy where that is usable; see `memory.plan`."""
    usable = profile.on_cpu and prepared.Prepared(bundle, graph).usable
    facts, manifest = bundle.manifest.graphs[graph], bundle.manifest
    return memory.plan(manifest, facts, profile, context, conversations, prepared=usable, machine=machine)


def check(bundle: Bundle, loaded: Loaded, *, again: bool = False) -> float | None:
    """KL of what it predicts from the bundle's golden prompts, None if it has none.

    What another provider than the CPU gave is noted and not measured `again` unless asked, or unless its
    settings have changed. Raises DeviceError where it fails.
    """
    expected, profile = golden.read(bundle), loaded.profile
    if not expected:
        return None
    name = f"checked-{profile.provider.name}-{loaded.graph.removesuffix('.onnx')}"
    note = MachineNote(bundle, name, Checked)
    package = providers.version(profile.provider.name)
    settings = Settings(package, dict(profile.provider.options), profile.prefill_chunk)
    known = None if again or profile.on_cpu else note.read()
    if known and known.settings == settings:
        return known.kl
    kl = golden.replay(loaded.decoder, expected)
    if not profile.on_cpu:
        note.try_to_write(Checked(settings, kl))
    return kl


def load_graph(
    bundle: Bundle,
    profile: DeviceProfile,
    graph: str,
    context: int,
    conversations: int = 1,
    *,
    in_turn: bool = False,
) -> Loaded:
    """A graph on a device as it is, from its prepared copy where that is usable. Raises BundleError,
    DeviceError.
    """
    copy, model = prepared.Prepared(bundle, graph), bundle.manifest.model
    facts = bundle.manifest.graphs[graph]
    packed = copy.path if profile.on_cpu and copy.usable else None
    keep_scores = attention.keeps_scores(model, facts, profile, context, devices.here().architecture)
    session = GraphSession(bundle, profile, graph, packed, keep_scores=keep_scores, in_turn=in_turn)
    decoder = open_decoder(session, model, facts, context, profile.prefill_chunk, conversations=conversations)
    return Loaded(decoder, graph, profile, session.threads, _alike(bundle, graph, profile))


def _alike(bundle: Bundle, graph: str, profile: DeviceProfile) -> bool:
    """See `Loaded`. Whole integer products are exact, over 8-bit keys attention goes row by row; an adapter's
    products are neither. So it is on x86; on Arm it is not.
    """
    facts, here = bundle.manifest.graphs[graph], devices.here()
    exact = facts.form == "rows8" and facts.kv == graph_io.INT8.name and not bundle.manifest.adapters
    return exact and profile.on_cpu and here.architecture == "x86_64"


def _load(
    bundle: Bundle,
    profile: DeviceProfile,
    context: int,
    kv: str | None,
    *,
    conversations: int | None,
    force: bool,
    in_turn: bool,
) -> Loaded:
    graph = choose_graph(bundle, profile, kv)
    _warn_if_slow(bundle, graph, profile)
    wanted = plan(bundle, profile, graph, context, devices.here(), conversations=conversations or 1)
    if not force:
        memory.check_fits(wanted, bundle.manifest.model.context, str(bundle.folder))
    if profile.on_cpu:
        prepared.refresh(bundle, graph)
    rows = conversations or _affordable(wanted, profile)
    return load_graph(bundle, profile, graph, context, rows, in_turn=in_turn)


def _whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _affordable(wanted: memory.MemoryPlan, profile: DeviceProfile) -> int:
    """Conversations that memory has room for; one in a device's own, which is taken at once."""
    if providers.memory(profile.provider.name) != "cpu":
        return 1
    return 1 + min(USUAL_CONVERSATIONS - 1, wanted.further_conversations(promises.free()))


def _answers_right(bundle: Bundle, loaded: Loaded) -> bool:
    """Whether a provider predicts what the bundle's golden prompts say."""
    name = loaded.profile.provider.name
    try:
        kl = check(bundle, loaded)
    except DeviceError as error:
        _warn(f"{error}: using the CPU")
        return False
    if kl is None:
        _warn(f"{name} is not checked: {bundle.folder} has no golden prompts (exported with --no-verify)")
        return True
    if kl <= golden.limit(bundle):
        return True
    _warn(
        f"{name} answers wrong here (KL {kl:.4f} from the golden prompts, up to {golden.limit(bundle):.4f} "
        "is rounding): using the CPU; `edgert doctor --device` checks again"
    )
    return False


def _warn_if_slow(bundle: Bundle, graph: str, profile: DeviceProfile) -> None:
    """Say what it costs that a bundle was made for something else, and the command that helps."""
    facts = bundle.manifest.graphs[graph]
    if profile.is_slow(facts.form):
        export = f"edgert export CHECKPOINT BUNDLE --device {profile.name} --quant int8"
        _warn(
            f"{bundle.folder} was made for {', '.join(facts.devices)}: on {profile.name} a token takes about "
            f"{profile.cost(facts.form):.0f} times as long as after `{export}`"
        )


def _warn(text: str) -> None:
    warnings.warn(text, EdgertWarning, stacklevel=7)
