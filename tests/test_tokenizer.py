"""Streaming text is whole characters, without special tokens, and joins to what decode gives."""

import random
import threading
import time

import pytest
import tiny
import tokenizers

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


def test_others_work_while_a_long_text_is_read():
    tokenizer, over, looked = Tokenizer(tiny.tokenizer().to_str()), threading.Event(), []

    def look() -> None:
        while not over.wait(0.001):
            looked.append(None)

    thread = threading.Thread(target=look)
    thread.start()
    tokenizer.encode("the quick brown fox " * 20_000)
    over.set()
    thread.join()
    assert len(looked) > 10  # 2 or 3 if it held them up


@pytest.mark.parametrize("text", SAMPLES)
def test_streamed_text_joins_to_the_original(text):
    tokenizer = Tokenizer(tiny.tokenizer().to_str())
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", SAMPLES)
def test_streamed_text_of_the_real_r1_tokenizer(text, kinds):
    assert streamed(kinds["r1"], kinds["r1"].encode(text)) == text


def test_an_unfinished_character_is_never_shown():
    tokenizer = Tokenizer(tiny.tokenizer().to_str())
    stream = tokenizer.stream()
    assert [stream.push(token) for token in tokenizer.encode("🎉")[:-1]] == [""] * 3


def test_special_tokens_are_not_shown():
    tokenizer = Tokenizer(tiny.tokenizer().to_str())
    stream = tokenizer.stream()
    assert "".join(stream.push(token) for token in [2, *tokenizer.encode("hi"), 1]) == "hi"


def test_thinking_is_text_for_r1(kinds):
    """<think> is an added token but not a special one: a student's thoughts are shown."""
    tokenizer = kinds["r1"]
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


def byte_fallback(prefix=True):
    """A small SentencePiece tokenizer as of Llama 2: bytes spell what its few pieces lack."""
    pieces = ["\u2581", "a", "b", "\u2581a", "ab", "中", "é", "\u2581\u2581", "", "\ufffd", "<think>"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * (len(pieces) - 1), 4],
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    return rebuild(metadata).tokenizer


@pytest.fixture(scope="module")
def kinds(r1_tokenizer):
    sources = {"prefixed": byte_fallback(), "plain": byte_fallback(prefix=False), "r1": r1_tokenizer}
    return {name: Tokenizer(source) for name, source in sources.items()}


def streamed(tokenizer, ids, prompt=()):
    stream = tokenizer.stream(prompt)
    return "".join(stream.push(token) for token in ids) + stream.flush()


def random_ids(rng, size):
    """Few tokens or many, some of them not in the vocabulary."""
    return [rng.randrange(rng.choice([262, size + 3])) for _ in range(rng.randrange(40))]


def sound_ids(rng, tokenizer, size):
    """Text with one random token somewhere."""
    ids = tokenizer.encode("".join(rng.choice("中é🎉a ▁\n") for _ in range(20)))
    ids.insert(rng.randrange(len(ids) + 1), rng.randrange(size))
    return ids


@pytest.mark.parametrize("kind", ["prefixed", "plain", "r1"])
def test_whatever_is_streamed_is_what_decode_gives(kind, kinds):
    tokenizer, rng = kinds[kind], random.Random(85)
    size = len(tokenizer.vocabulary)
    for _ in range(500):
        for ids in (random_ids(rng, size), sound_ids(rng, tokenizer, size)):
            assert streamed(tokenizer, ids) == tokenizer.decode(ids), ids


@pytest.mark.parametrize("kind", ["prefixed", "plain", "r1"])
def test_what_follows_a_prompt_is_what_decode_adds(kind, kinds):
    tokenizer, rng = kinds[kind], random.Random(86)
    size = len(tokenizer.vocabulary)
    for _ in range(300):
        ids = sound_ids(rng, tokenizer, size)
        prompt = ids[: rng.randrange(len(ids))]
        before = tokenizer.decode(prompt)
        if not before.endswith("\ufffd"):
            assert before + streamed(tokenizer, ids[len(prompt) :], prompt) == tokenizer.decode(ids), ids


@pytest.mark.parametrize("text", SAMPLES)
def test_sound_bytes_are_decoded_as_tokenizers_does(text):
    source = byte_fallback()
    ids = Tokenizer(source).encode(text)
    assert Tokenizer(source).decode(ids) == tokenizers.Tokenizer.from_str(source).decode(ids) == text


def test_a_wrong_byte_takes_no_character_with_it():
    """tokenizers' own stream ends with an exception here: a shown "A" would become U+FFFD."""
    tokenizer = Tokenizer(byte_fallback())
    first, incomplete, piece = (3 + ord("A"), 3 + 0xE4, 260)
    stream = tokenizer.stream()
    assert [stream.push(token) for token in (first, incomplete, incomplete, piece)] == [
        "A",
        "",
        "",
        "\ufffd\ufffda",
    ]
    assert tokenizer.decode([first, incomplete, incomplete, piece]) == "A\ufffd\ufffda"


def test_characters_of_bytes_are_shown_as_soon_as_they_are_whole():
    stream = Tokenizer(byte_fallback()).stream()
    assert [stream.push(3 + byte) for byte in "🎉é".encode()] == ["", "", "", "🎉", "", "é"]


@pytest.mark.parametrize("source", [byte_fallback(), tiny.tokenizer().to_str()])
def test_an_unfinished_character_is_flushed_as_decode_gives_it(source):
    tokenizer = Tokenizer(source)
    ids = tokenizer.encode("a🎉")[:-1]
    stream = tokenizer.stream()
    assert "".join(stream.push(token) for token in ids) == "a"
    assert (stream.flush(), stream.flush()) == ("\ufffd", "")
    assert tokenizer.decode(ids) == "a\ufffd"


def test_an_answer_cut_inside_a_character_is_what_decode_gives(model):
    byte = model.tokenizer.encode("🎉")[-1]
    reply = model.generate([5, 6], max_tokens=2, logit_bias={byte: 100.0})
    assert reply.text == model.tokenizer.decode(reply.token_ids) == "\ufffd\ufffd"


def seconds_per_token(tokenizer, ids):
    stream, start = tokenizer.stream(), time.perf_counter()
    for token in ids:
        stream.push(token)
    return (time.perf_counter() - start) / len(ids)


@pytest.mark.parametrize("kind", ["prefixed", "r1"])
def test_a_token_costs_the_same_however_long_the_answer(kind, kinds):
    """Also where nothing can be shown: bytes that never become a character, tokens outside the vocabulary."""
    tokenizer = kinds[kind]
    for ids in (tokenizer.encode("a 🎉 中 b"), tokenizer.encode("🎉")[-1:], [len(tokenizer.vocabulary) + 5]):
        short, long = (
            min(seconds_per_token(tokenizer, (ids * length)[:length]) for _ in range(3))
            for length in (300, 3000)
        )
        assert long < 3 * short and short < 500e-6  # usually 10 µs, but tests share the machine


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
