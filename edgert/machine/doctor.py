"""Doctor: whether this machine can run a bundle, whether it computes right, and if not, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgert import devices
from edgert.bundle import DATA, Bundle
from edgert.devices import DeviceProfile
from edgert.engine import golden, memory, prepared, providers
from edgert.engine.loading import check, choose_graph, load_graph, plan
from edgert.engine.providers import ort
from edgert.errors import EdgertError
from edgert.machine import heat
from edgert.machine.tuning import Tuning, tuned_profile

Verdict = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `bad` keeps the bundle from running or from being right, a `note` does not."""

    subject: str
    verdict: Verdict
    text: str


def examine(bundle: Bundle | None, profile: DeviceProfile | None = None) -> Iterator[Finding]:
    """Look at the machine and, if one is given, at a bundle on it; findings as they are made."""
    found = devices.detect()
    profile = profile or (tuned_profile(bundle) if bundle else found.profile)
    yield Finding("machine", "ok", str(found.hardware))
    yield Finding("detected", "ok", f"{found.profile.name}: {found.reason}")
    yield _processor(profile, found.hardware)
    yield Finding("onnxruntime", "ok", f"{ort.__version__}, telemetry off")
    for name in dict.fromkeys((providers.CPU, *providers.PLUGINS, profile.provider.name)):
        yield _provider(name, wanted=name == profile.provider.name)
    yield _heat()
    if bundle is None:
        yield Finding("memory", "ok", f"{devices.memory_available() / 1e6:,.0f} MB are free")
        return
    yield _looked("files", _hashes, bundle)
    room = _looked("memory", _memory, bundle, profile)
    yield room
    yield _looked("prepared copy", _copy, bundle, profile)
    yield _looked("tuned", _tuned, bundle)
    if room.verdict == "bad":
        yield Finding("self-test", "note", "not run: see memory")
    else:
        yield _looked(f"self-test on {profile.provider.name}", self_test, bundle, profile)


def _looked(subject: str, look: Callable[..., Finding], *at: object) -> Finding:
    """What was found; bad where it could not be looked at, since then nothing else can use it either."""
    try:
        return look(*at)
    except (EdgertError, OSError) as error:
        return Finding(subject, "bad", reason(error))


def reason(error: EdgertError | OSError) -> str:
    """An error in words; the system's own with the file it is about."""
    if isinstance(error, OSError):
        return f"{error.filename}: can't be read: {error.strerror}"
    return str(error)


def _processor(profile: DeviceProfile, hardware: devices.Hardware) -> Finding:
    """Whether it has what the profile's kernels need."""
    subject = f"device {profile.name}"
    if not profile.processor or profile.suits(hardware):
        return Finding(subject, "ok", profile.title)
    needed = profile.processor.get(hardware.architecture)
    lacks = f"lacks {', '.join(needed)}" if needed else f"is {hardware.architecture}"
    return Finding(
        subject, "note", f"{hardware.processor} {lacks}: another kind of machine, slow kernels here"
    )


def _provider(name: str, *, wanted: bool) -> Finding:
    reason = providers.why_not(name)
    if reason is None:
        return Finding(name, "ok", "usable")
    return Finding(name, "bad" if wanted else "note", f"not usable: {reason}")


def _heat() -> Finding:
    found = heat.measure()
    return Finding("heat", "note" if found.slows else "ok", str(found))


def _hashes(bundle: Bundle) -> Finding:
    bundle.check_hashes()
    missing = f"; {len(bundle.replaced)} replaced by the prepared copy" if bundle.replaced else ""
    return Finding("files", "ok", f"all {len(bundle.present)} have their SHA-256{missing}")


def _memory(bundle: Bundle, profile: DeviceProfile) -> Finding:
    model = bundle.manifest.model
    context = min(profile.context, model.context)
    wanted = plan(bundle, profile, choose_graph(bundle, profile, None), context, devices.here())
    free = f"{devices.memory_available() / 1e6:,.0f} MB are free"
    memory.check_fits(wanted, model.context, str(bundle.folder))
    return Finding("memory", "ok", f"{wanted.total / 1e6:,.0f} MB needed for {context} tokens, {free}")


def _copy(bundle: Bundle, profile: DeviceProfile) -> Finding:
    copy = prepared.Prepared(bundle, choose_graph(bundle, profile, None))
    if not copy.exists:
        advised = "recommended on this device" if profile.prepare else "`edgert prepare` makes one"
        return Finding("prepared copy", "note" if profile.prepare else "ok", f"none, {advised}")
    if reason := copy.outdated():
        only = DATA in bundle.replaced
        return Finding(
            "prepared copy", "bad" if only else "note", reason + "; export or pull it again" * only
        )
    if reason := copy.damaged():
        own = "export or pull the bundle again" if bundle.replaced else f"remove {copy.path.parent}"
        return Finding("prepared copy", "bad", f"{reason}; {own}")
    return Finding("prepared copy", "ok", "fits this machine, has its SHA-256")


def _tuned(bundle: Bundle) -> Finding:
    tuning = Tuning.read(bundle)
    return Finding("tuned", "ok", tuning.verdict if tuning else "not yet, `edgert tune` measures")


def self_test(bundle: Bundle, profile: DeviceProfile) -> Finding:
    """Replay the bundle's golden prompts as `profile` would run them, whatever was found before.

    Raises EdgertError, and OSError where a file can't be read.
    """
    subject = f"self-test on {profile.provider.name}"
    context = min(golden.LONGEST_TEXT, bundle.manifest.model.context)
    kl = check(bundle, load_graph(bundle, profile, choose_graph(bundle, profile, None), context), again=True)
    if kl is None:
        return Finding(subject, "note", "no golden prompts: the bundle was exported with --no-verify")
    if kl > golden.limit(bundle):
        instead = "export or pull it again" if profile.on_cpu else "the CPU is used instead"
        return Finding(subject, "bad", f"answers wrong: KL {kl:.4f} from the golden prompts; {instead}")
    return Finding(subject, "ok", f"KL {kl:.5f} from the golden prompts")
