"""Compare: the same prompts to two bundles, a student and its teacher, an export and an older one.

Both answer greedily, each from an empty cache and with its own chat template, so that a comparison can be
repeated. Then both read the reference's answer, and their predictions are compared at each of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgert.answering.request import Options
from edgert.compare.comparison import Answer, Choice, Comparison, Fork, Pair, Side
from edgert.engine.fidelity import Figures, Logits, diverge, log_softmax
from edgert.errors import PromptTooLong, UsageError
from edgert.model import Model
from edgert.text.final import final_answer
from edgert.text.prompts import Question, title

Progress = Callable[[int, int], None]  # prompts done, prompts in all


def compare(
    bundle: Model,
    reference: Model,
    prompts: Sequence[Question],
    max_tokens: int = 128,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Ask both every prompt. Both are in memory, and the logits of one answer: vocab * 8 bytes per token.

    Raises UsageError if there are no prompts or the vocabularies differ, and PromptTooLong, naming the
    prompt, before anything is computed.
    """
    if not prompts:
        raise UsageError("there are no prompts to compare on")
    _check_same_vocabulary(bundle, reference)
    limits = [_limit(prompt, i, (bundle, reference), max_tokens) for i, prompt in enumerate(prompts, 1)]
    pairs: list[Pair] = []
    for prompt, limit in zip(prompts, limits, strict=True):
        pairs.append(_pair(bundle, reference, prompt, limit))
        progress(len(pairs), len(prompts))
    return Comparison(_side(bundle), _side(reference), max_tokens, tuple(pairs))


def _side(model: Model) -> Side:
    manifest = model.bundle.manifest
    return Side(manifest.name, str(model.bundle.folder), manifest.quantization.scheme, model.bundle.size)


def _check_same_vocabulary(bundle: Model, reference: Model) -> None:
    """Token ids must mean the same, and logits have the same width."""
    sizes = [model.bundle.manifest.model.vocab_size for model in (bundle, reference)]
    if sizes[0] != sizes[1] or bundle.tokenizer.vocabulary != reference.tokenizer.vocabulary:
        raise UsageError(
            f"{bundle.bundle.folder} and {reference.bundle.folder} have different vocabularies (logits of "
            f"{sizes[0]} and {sizes[1]} tokens): only bundles of one tokenizer can be compared token by token"
        )


def _limit(prompt: Question, number: int, models: Sequence[Model], max_tokens: int) -> int:
    """The longest answer that both have room for. Raises PromptTooLong, and UsageError if one refuses."""
    what = f"prompt {number} ({title(prompt)[:40]!r})"
    for model in models:
        try:
            tokens = len(model.tokens_of(prompt))
        except UsageError as error:
            raise UsageError(f"{what}: {error}") from error
        if tokens >= model.context:
            raise PromptTooLong(tokens, model.context, what)
        max_tokens = min(max_tokens, model.context - tokens)
    return max_tokens


def _pair(bundle: Model, reference: Model, prompt: Question, limit: int) -> Pair:
    ours, theirs = _ask(bundle, prompt, limit), _ask(reference, prompt, limit)
    q, p = (_logits_along(model, prompt, theirs) for model in (bundle, reference))
    ends = reference.bundle.manifest.generation.eos_token_ids
    following = np.array([*theirs.token_ids, *ends[:1]][: len(p)])
    found = diverge(p, q, following)
    return Pair(
        prompt,
        bundle.tokens_of(prompt) == reference.tokens_of(prompt),
        ours,
        theirs,
        _fork(ours, theirs, q, p, ends),
        tuple(found.kl.tolist()),
        tuple(found.agrees.tolist()),
    )


def _ask(model: Model, prompt: Question, limit: int) -> Answer:
    greedy: Options = {"max_tokens": limit, "temperature": 0.0, "repetition_penalty": 1.0, "logprobs": 0}
    greedy["fresh"] = True
    reply = model.generate(prompt, **greedy)
    text = model.tokenizer.stream()
    pieces = [text.push(token) for token in reply.token_ids]  # those of the tags, too
    if pieces:
        pieces[-1] += text.flush()  # what a cut left incomplete
    return Answer(
        "".join(pieces),
        reply.token_ids,
        tuple(pieces),
        tuple(math.exp(token.logprob) for token in reply.tokens if token.logprob is not None),
        reply.finish_reason,
        final_answer(reply.text, reply.timings.thinking_tokens > 0),
    )


def _logits_along(model: Model, prompt: Question, answer: Answer) -> Logits:
    """Predictions of each token of an answer, and of its end if it has one: (tokens or one more, vocab)."""
    asked = model.tokens_of(prompt)
    rows = len(answer.token_ids) + (answer.finish_reason == "stop")
    return model.logits([*asked, *answer.token_ids])[len(asked) - 1 :][:rows]


def _fork(ours: Answer, theirs: Answer, q: Logits, p: Logits, ends: Sequence[int]) -> Fork | None:
    if ours.token_ids == theirs.token_ids:
        return None
    both = zip(ours.token_ids, theirs.token_ids, strict=False)  # one may have ended earlier
    shorter = min(len(ours.token_ids), len(theirs.token_ids))
    index = next((i for i, (a, b) in enumerate(both) if a != b), shorter)
    own, chances = (np.exp(log_softmax(logits[index])) for logits in (q, p))
    return Fork(
        index,
        taken := _choice(ours, index, own, ends),
        _choice(theirs, index, chances, ends),
        float(chances[list(ends) if taken.token_id is None else taken.token_id].sum()),
    )


def _choice(answer: Answer, index: int, chances: Figures, ends: Sequence[int]) -> Choice:
    """What an answer has at `index`; the end is any of the tokens that end answers."""
    if index == len(answer.token_ids):
        return Choice(None, "", float(chances[list(ends)].sum()))
    return Choice(answer.token_ids[index], answer.pieces[index], answer.probabilities[index])
