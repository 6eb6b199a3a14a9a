"""A tokenizer.json rebuilt from GGUF metadata: vocabulary, merges, pre-tokenizer, special tokens.

The pre-tokenizers are those of the models' own tokenizer.json files; GGUF only keeps their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from . import TokenizerFiles

Metadata = Mapping[str, Any]

PHI3_PLAIN = ("<unk>", "<s>", "<|endoftext|>")
CONTROL, USER_DEFINED = 3, 4  # token types, GGUF specification

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
)
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
SPLITS = {
    "llama-bpe": rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}",
    "dbrx": rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}",
    "gpt-4o": (
        rf"{_CASED.replace('|', _SUFFIX + '|')}{_SUFFIX}|\p{{N}}{{1,3}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen2": rf"{_WORDS}|\p{{N}}|{_REST}",
    "tekken": rf"{_CASED}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
ALIASES = {
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "smaug-bpe": "llama-bpe",
    "deepseek-r1-qwen": "qwen2",
    "starcoder": "smollm",
    "refact": "smollm",
}
# Names under which chat models end a turn, for files whose metadata names only one end.
TURN_ENDS = (
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
)


def rebuild(metadata: Metadata) -> TokenizerFiles:
    """Tokenizer files of a GGUF's metadata. Raises ValueError for kinds that can't be rebuilt."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"tokenizer model '{kind}' can't be rebuilt (known: gpt2, llama)")
    build = _byte_level_bpe if kind == "gpt2" else _sentencepiece_bpe
    tokenizer = build(metadata)
    _add_tokens(tokenizer, metadata)
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"tokenizer.chat_template must be a text, not {template!r}")
    return TokenizerFiles(tokenizer.to_str(), _config(metadata), template)


def adds_bos(metadata: Metadata) -> bool:
    """Whether raw text starts with BOS: SentencePiece, Llama 3 and Tekken do unless they say no."""
    default = metadata.get("tokenizer.ggml.model") == "llama" or _pre(metadata) in ("llama-bpe", "tekken")
    return bool(metadata.get("tokenizer.ggml.add_bos_token", default))


def turn_ends(metadata: Metadata) -> list[int]:
    """Ids of the well-known end tokens among the control tokens."""
    types = metadata.get("tokenizer.ggml.token_type", [])
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    controls = {token: i for i, token in enumerate(tokens) if i < len(types) and types[i] == CONTROL}
    return [controls[name] for name in TURN_ENDS if name in controls]


def _pre(metadata: Metadata) -> str:
    name = str(metadata.get("tokenizer.ggml.pre", "missing"))
    return ALIASES.get(name, name)


def _byte_level_bpe(metadata: Metadata) -> Tokenizer:
    pre = _pre(metadata)
    vocabulary = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    missing = next((part for merge in merges for part in merge if part not in vocabulary), None)
    if missing is not None:
        raise ValueError(f"a merge names '{missing}', which is not in the vocabulary")
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in ("llama-bpe", "tekken")))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "gpt-2":
        return words
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    if pre in SPLITS:
        split = pre_tokenizers.Split(Regex(SPLITS[pre]), "isolated")
        return pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    known = ", ".join(["gpt-2", "smollm", *SPLITS, *ALIASES])
    raise ValueError(f"pre-tokenizer '{pre}' can't be rebuilt (known: {known})")


def _sentencepiece_bpe(metadata: Metadata) -> Tokenizer:
    """Scores rank the merges: a pair merges before another if the piece it makes scores higher."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    unknown = tokens[int(metadata.get("tokenizer.ggml.unknown_token_id", 0))]
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary, _merges(vocabulary, scores), unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    prefixed = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefixed else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return tokenizer


def _merges(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    ranked = []
    for piece, number in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[number], vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


def _add_tokens(tokenizer: Tokenizer, metadata: Metadata) -> None:
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type", [])
    typed = list(zip(tokens, types, strict=False))
    # Phi-3's tokenizer.json has its turn tokens take the white space behind them; GGUF doesn't keep that.
    phi3 = metadata.get("general.architecture") == "phi3"
    special = [
        AddedToken(text, special=True, normalized=False, rstrip=phi3 and text not in PHI3_PLAIN)
        for text, kind in typed
        if kind == CONTROL
    ]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text, kind in typed if kind == USER_DEFINED])


def _config(metadata: Metadata) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos(metadata),
    }
    for name in ("bos", "eos", "unknown", "padding"):
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None:
            config[{"unknown": "unk", "padding": "pad"}.get(name, name) + "_token"] = tokens[int(number)]
    return config
