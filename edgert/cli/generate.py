"""`edgert generate`: one prompt, one answer."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

import click

from edgert.cli import completing, console
from edgert.cli.opening import answering, load_model
from edgert.cli.options import (
    adapter_option,
    draft_option,
    form,
    form_options,
    kv_option,
    model_options,
    sampling_options,
    stats_option,
    switched,
    thinking_option,
)
from edgert.errors import UsageError

if TYPE_CHECKING:
    from edgert.answering.reply import Reply


@click.command(short_help="Answer one question and exit.")
@click.argument("bundle", required=False, shell_complete=completing.bundles)
@click.option(
    "-p",
    "--prompt",
    required=True,
    help="The question. A text that is piped in is put before it; '-' takes the text alone.",
)
@click.option("--raw", is_flag=True, help="Take the prompt as the start of a text and continue it.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the answer as JSON, with its token ids, why it ended, and speeds.",
)
@model_options
@kv_option
@adapter_option
@thinking_option
@stats_option
@form_options
@draft_option
@sampling_options
def generate(
    *,
    bundle: str | None,
    prompt: str,
    raw: bool,
    as_json: bool,
    device: str | None,
    context: int | None,
    threads: int | None,
    kv: str | None,
    adapter: str | None,
    force: bool,
    thinking: str | None,
    stats: bool,
    json_schema: IO[bytes] | None,
    regex: str | None,
    grammar: IO[bytes] | None,
    **sampling: Any,
) -> None:
    """Answer one question and exit.

    \b
    edgert generate -p "Why is the sky blue?" --max-tokens 100
    edgert generate ./my-bundle --raw -p "Once upon a time"
    edgert generate ./my-bundle -p - --json < question.txt
    cat notes.txt | edgert generate -p "Summarize this text."

    BUNDLE is the folder that a student was exported to, or the name that it was pulled by; without it, the
    default student answers. A question is put into the model's chat template, the form of its training
    conversations; --raw leaves that out.

    Options that you leave out, such as --temperature, have the model's own values.
    """
    from edgert.chat import notices
    from edgert.chat.printing import Printer

    if not (prompt if raw else prompt.strip()):
        raise UsageError("the prompt is empty: -p needs a text")
    shape = form(json_schema, regex, grammar)
    model = load_model(
        bundle, device, context, kv, threads=threads, force=force, adapter=adapter, draft=sampling["draft"]
    )
    prompt = _whole(prompt, raw)
    switch, shown = switched(thinking)
    options = answering(bundle, {**sampling, "thinking": switch, **shape})
    stream = model.stream(model.tokenizer.encode(prompt) if raw else prompt, **options)
    if as_json:
        click.echo(json.dumps(_reply_json(stream.reply), ensure_ascii=False, indent=2))
        return
    printer = Printer(shown, raw=raw)
    for chunk in stream:
        printer.show(chunk)
    printer.end()
    drawn = model.request(**options).sampling
    notices.show(notices.cut_notice(stream.reply, model.context, drawn, notices.as_flag))
    if stats:
        notices.show(notices.stats(stream.reply.timings))


def _whole(prompt: str, raw: bool) -> str:
    """The question, below a text that is piped in; '-' stands for the text alone. A raw prompt is not joined:
    what is to be continued comes from one place.
    """
    if prompt == "-":
        return console.piped_text() if raw else console.piped_prompt()
    text = "" if raw or console.on_terminal() else console.piped_beside()
    return f"{text}\n\n{prompt}" if text else prompt


def _reply_json(reply: Reply) -> dict[str, Any]:
    timings = reply.timings
    return {
        "text": reply.text,
        "thinking": reply.thinking,
        "token_ids": list(reply.token_ids),
        "finish_reason": reply.finish_reason,
        "prompt_tokens": timings.prompt_tokens,
        "thinking_tokens": timings.thinking_tokens,
        "drafted_tokens": timings.drafted_tokens,
        "accepted_tokens": timings.accepted_tokens,
        "prefill_tokens_per_s": round(timings.prefill_tokens_per_s, 2),
        "decode_tokens_per_s": round(timings.decode_tokens_per_s, 2),
        "time_to_first_token_s": round(timings.time_to_first_token_s, 4),
    }
