"""Streaming text is whole characters, without special tokens, and joins to what decode gives."""

import pytest
import tiny

from edgert.errors import BundleError
from edgert.export.checkpoint.gguf_tokenizer import rebuild
from edgert.text.tokenizer import Tokenizer, open_tokenizer

SAMPLES = [
    "plain text",
    "naïve café",
    "東京は日本の首都です",
    "🎉👩‍👩‍👧‍👦 family",
    "mixed 🎉 と text",
    "  spaces \n\n lines\t",
]


@pytest.mark.parametrize("text", SAMPLES)
def test_streamed_text_joins_to_the_original(text):
    tokenizer = Tokenizer(tiny.tokenizer().to_str())
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", SAMPLES)
def test_streamed_text_of_the_real_r1_tokenizer(text, r1_tokenizer):
    tokenizer = Tokenizer(r1_tokenizer)
    stream = tokenizer.stream()
    assert "".join(stream.push(token) for token in tokenizer.encode(text)) == text


def test_an_unfinished_character_is_never_shown():
    tokenizer = Tokenizer(tiny.tokenizer().to_str())
    stream = tokenizer.stream()
    assert [stream.push(token) for token in tokenizer.encode("🎉")[:-1]] == [""] * 3


def test_special_tokens_are_not_shown():
    tokenizer = Tokenizer(tiny.tokenizer().to_str())
    stream = tokenizer.stream()
    assert "".join(stream.push(token) for token in [2, *tokenizer.encode("hi"), 1]) == "hi"


def test_thinking_is_text_for_r1(r1_tokenizer):
    """<think> is an added token but not a special one: a student's thoughts are shown."""
    tokenizer = Tokenizer(r1_tokenizer)
    stream = tokenizer.stream()
    ids = tokenizer.encode_rendered("<think>\nHm.\n</think>\n\nYes.<｜end▁of▁sentence｜>")
    assert "".join(stream.push(token) for token in ids) == "<think>\nHm.\n</think>\n\nYes."


def test_raw_text_goes_on_with_its_space():
    """SentencePiece strips the first space of a text, but not of what follows a prompt."""
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "\u2581", "a", "b"],
        "tokenizer.ggml.scores": [0.0] * 4,
        "tokenizer.ggml.token_type": [2, 1, 1, 1],
    }
    tokenizer = Tokenizer(rebuild(metadata).tokenizer)
    follows, alone = tokenizer.stream(prompt=[1, 2]), tokenizer.stream()
    assert "".join(follows.push(token) for token in (1, 3)) == " b"
    assert "".join(alone.push(token) for token in (1, 3)) == "b"


def test_bos_is_added_once():
    tokenizer = Tokenizer(tiny.tokenizer().to_str(), bos_token_id=0, add_bos=True)
    ids = tokenizer.encode("hi")
    assert ids[0] == 0 and ids.count(0) == 1
    assert tokenizer.encode("<|bos|>hi") == ids


def test_rendered_prompts_get_no_second_bos():
    tokenizer = Tokenizer(tiny.tokenizer().to_str(), bos_token_id=0, add_bos=True)
    assert tokenizer.encode_rendered("<|bos|>hi").count(0) == 1


def test_a_broken_tokenizer_is_named(bundles, tmp_path):
    import shutil

    from edgert.bundle import Bundle, open_bundle

    folder = shutil.copytree(bundles(), tmp_path / "bundle")
    manifest = open_bundle(folder).manifest
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="tokenizer.json: not a tokenizer"):
        open_tokenizer(Bundle(folder, manifest))
