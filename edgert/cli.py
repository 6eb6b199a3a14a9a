"""The command line: each command parses, calls the library and prints. Errors are one line."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from edgert import __version__, console, home
from edgert.errors import BundleError, UsageError
from edgert.options import model_options, sampling_options

if TYPE_CHECKING:
    from edgert.bundle import Bundle, Manifest
    from edgert.model import Model, Options


@click.group(cls=console.Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgert")
def main() -> None:
    """Chat with your own distilled student on a small machine.

    \b
    edgert chat                        talk to the default student
    edgert export CHECKPOINT BUNDLE    make an int8 bundle of your own (on the dev machine)
    edgert chat BUNDLE                 talk to it (anywhere)
    """
    console.speak_utf8()


@main.command(short_help="Talk to a bundle.")
@click.argument("bundle", required=False)
@click.option("--system", help="System prompt; without it the model's own is used, if it has one.")
@model_options
@sampling_options
def chat(
    *, bundle: str | None, system: str | None, device: str | None, context: int | None, **sampling: Any
) -> None:
    """Talk to a bundle, given as a folder or by the name it was pulled under.

    With a prompt piped in it answers and exits:  echo "Why is the sky blue?" | edgert chat
    """
    from edgert.chat import Chat

    piped = None if console.on_terminal() else console.read_stdin()
    session = Chat(_load(bundle, device, context), _given(sampling), system)
    if piped is None:
        session.loop()
    else:
        session.answer(piped)


@main.command()
@click.argument("bundle", required=False)
@click.option("-p", "--prompt", required=True, help="The question; '-' reads it from standard input.")
@click.option("--raw", is_flag=True, help="Continue the text as it is, without the chat template.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print text, token ids, finish reason and speeds as JSON."
)
@model_options
@sampling_options
def generate(
    *,
    bundle: str | None,
    prompt: str,
    raw: bool,
    as_json: bool,
    device: str | None,
    context: int | None,
    **sampling: Any,
) -> None:
    """Answer one prompt and exit.

    \b
    edgert generate -p "Why is the sky blue?" --max-tokens 100
    edgert generate ./bundle -p "Once upon a time" --raw --json
    """
    from edgert.answer import cut_notice

    model = _load(bundle, device, context)
    text = console.read_stdin() if prompt == "-" else prompt
    stream = model.stream(model.tokenizer.encode(text) if raw else text, **_given(sampling))
    if as_json:
        click.echo(json.dumps(_reply_json(stream), ensure_ascii=False, indent=2))
        return
    for chunk in stream:
        click.echo(chunk.text, nl=False)
    click.echo()
    if chunk.finish_reason == "length":
        click.echo(cut_notice(chunk.timings, model.context), err=True)


def _reply_json(stream: Any) -> dict[str, Any]:
    from edgert.answer import join

    reply = join(stream)
    timings = reply.timings
    return {
        "text": reply.text,
        "token_ids": list(reply.token_ids),
        "finish_reason": reply.finish_reason,
        "prompt_tokens": timings.prompt_tokens,
        "prefill_tokens_per_s": round(timings.prefill_tokens_per_s, 2),
        "decode_tokens_per_s": round(timings.decode_tokens_per_s, 2),
        "time_to_first_token_s": round(timings.time_to_first_token_s, 4),
    }


@main.command(short_help="Make a bundle of a checkpoint.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--device", help="Profile of the machine it is for; see `edgert devices`.")
@click.option("--quant", type=click.Choice(["int8", "fp32"]), default="int8", show_default=True)
@click.option("--max-context", type=click.IntRange(1), help="Longest context the bundle can hold, in tokens.")
@click.option(
    "--via",
    type=click.Choice(["auto", "direct", "optimum"]),
    default="auto",
    help="Builder; optimum is to come.",
)
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def export(checkpoint: Path, bundle: Path, as_json: bool, **options: Any) -> None:
    """Make a bundle of a Hugging Face folder or a GGUF file.

    \b
    edgert export ./my-student ./my-student-int8
    edgert export model-Q4_K_M.gguf ./bundle --max-context 8192
    """
    from edgert.bundle import CHAT_TEMPLATE

    written = _export(checkpoint, bundle, options)
    if as_json:
        click.echo(written.manifest.to_json(), nl=False)
    else:
        how = "chat" if CHAT_TEMPLATE in written.manifest.files else "generate --raw -p TEXT"
        ready = f"edgert {how} {shlex.quote(str(bundle))}"
        click.echo(f"{bundle}: {written.size / 1e6:.1f} MB, ready for: {ready}")


def _export(checkpoint: Path, bundle: Path, options: dict[str, Any]) -> Bundle:
    from edgert import export as exporter

    with click.progressbar(
        length=1, label="Exporting", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        return exporter.export(checkpoint, bundle, exporter.ExportOptions(**options), progress)


@main.command(short_help="Obtain a known student, ready to chat.")
@click.argument("name", default=home.DEFAULT_MODEL)
@click.option("--list", "show", is_flag=True, help="List the models that can be pulled.")
@click.option("--quant", type=click.Choice(["int8", "fp32"]), default="int8", show_default=True)
@click.option("--device", help="Profile of the machine it is for; see `edgert devices`.")
@click.option("--force", is_flag=True, help="Export again, even if the bundle is there.")
def pull(*, name: str, show: bool, quant: str, device: str | None, force: bool) -> None:
    """Obtain a student of the catalog and export it, so that `edgert chat NAME` works."""
    from edgert.export import catalog

    if show:
        for entry in catalog.CATALOG:
            click.echo(f"{entry.name:24} {entry.parameters:>6} M  {entry.license:12} {entry.source}")
        return
    click.echo(f"{_pull(name, quant, device, force)} is ready: edgert chat {name}")


def _pull(name: str, quant: str = "int8", device: str | None = None, force: bool = False) -> Path:
    """The bundle of a catalog entry, made if it isn't there. Raises UsageError if another one is."""
    from edgert import export as exporter
    from edgert.export import catalog
    from edgert.export import pull as pulling

    entry = catalog.find(name)
    folder = home.bundle_folder(name)
    if folder.exists() and not force and (made := _intact(folder)):
        if quant != made.quantization.scheme or device not in (None, *made.devices):
            kind = f"{made.quantization.scheme} for {', '.join(made.devices)}"
            raise UsageError(f"{name} is there already as {kind}: --force replaces it")
        return folder
    exporter.require_extra()  # before a download that would be of no use without it
    click.echo(f"Pulling {name} ({entry.license}) from {entry.source} …", err=True)
    checkpoint = pulling.pull(entry, home.checkpoint_folder(name))
    click.echo(f"Exporting {checkpoint} to {folder} …", err=True)
    _export(checkpoint, folder, {"quant": quant, "device": device, "name": name, "force": True})
    return folder


@main.command(short_help="Show what a bundle holds.")
@click.argument("bundle")
@click.option("--verify", is_flag=True, help="Read every file and compare its SHA-256.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def info(bundle: str, verify: bool, as_json: bool) -> None:
    """Show what a bundle holds: model, quantization, origin, licence, files."""
    from edgert.bundle import open_bundle

    opened = open_bundle(home.find_bundle(bundle))
    if verify:
        opened.check_hashes()
    click.echo(opened.manifest.to_json() if as_json else _info_text(opened), nl=not as_json)
    if verify and not as_json:
        click.echo(f"{'hashes':12}all {len(opened.manifest.files)} match")


def _info_text(bundle: Bundle) -> str:
    manifest, model, quant = bundle.manifest, bundle.manifest.model, bundle.manifest.quantization
    blocks = ", ".join(f"{kind} {size}" for kind, size in quant.block_size.items())
    rows = [
        ("name", manifest.name),
        ("model", f"{model.family}, {model.parameters / 1e6:.0f} M parameters, {model.num_layers} layers"),
        (
            "context",
            f"up to {model.context} tokens, {_kv_bytes(bundle) * 1000 / 1e6:.1f} MB of KV cache per 1,000",
        ),
        ("weights", f"{quant.scheme}, weights per scale: {blocks}" if blocks else quant.scheme),
        ("devices", ", ".join(manifest.devices)),
        ("origin", f"{manifest.origin.source}, licence {manifest.origin.license or 'not stated'}"),
        ("defaults", f"temperature {manifest.generation.temperature}, top_p {manifest.generation.top_p}"),
        ("written by", f"edgert {manifest.edgert}, format {manifest.format_version}"),
        ("size", f"{bundle.size / 1e6:.0f} MB in {len(manifest.files)} files"),
    ]
    return "\n".join(f"{name:12}{value}" for name, value in rows)


def _kv_bytes(bundle: Bundle) -> int:
    """Bytes of float32 keys and values a token."""
    model = bundle.manifest.model
    return 2 * 4 * model.num_layers * model.num_kv_heads * model.head_dim


@main.command(name="devices", short_help="List device profiles and the one detected.")
@click.option("--json", "as_json", is_flag=True)
def list_devices(as_json: bool) -> None:
    """List the device profiles and the one detected on this machine, with the reason."""
    from edgert import devices

    found = devices.detect()
    profiles = [devices.load(name) for name in devices.names()]
    if as_json:
        table = {
            "detected": found.profile.name,
            "reason": found.reason,
            "profiles": [asdict(p) for p in profiles],
        }
        click.echo(json.dumps(table, indent=2))
        return
    for profile in profiles:
        mark = "*" if profile.name == found.profile.name else " "
        click.echo(f"{mark} {profile.name:20} {profile.title}")
    click.echo(f"* detected: {found.reason}")


def _load(bundle: str | None, device: str | None, context: int | None) -> Model:
    from edgert.model import load

    folder = home.find_bundle(bundle) if bundle else _default_bundle()
    return load(folder, device, context)


def _intact(folder: Path) -> Manifest | None:
    """The manifest of a pulled bundle; None, and a line that says so, if it is damaged."""
    from edgert.bundle import open_bundle

    try:
        return open_bundle(folder).manifest
    except BundleError as error:
        click.echo(f"{error}: doing so", err=True)
        return None


def _default_bundle() -> Path:
    """The default student; if it is missing, say so and offer to get it."""
    folder = home.bundle_folder(home.DEFAULT_MODEL)
    if folder.exists():
        return folder
    click.echo(f"The default student, {home.DEFAULT_MODEL}, is not in {home.home()} yet.", err=True)
    if not console.on_terminal():
        raise UsageError(f"get it with: edgert pull {home.DEFAULT_MODEL}")
    if not click.confirm("Get it now (93 MB download, 155 MB bundle)?", default=True, err=True):
        raise UsageError("nothing to chat with: name a bundle, as in: edgert chat BUNDLE")
    return _pull(home.DEFAULT_MODEL)


def _given(sampling: dict[str, Any]) -> Options:
    """Only the options that were given."""
    return cast("Options", {name: value for name, value in sampling.items() if value not in (None, ())})
