"""What an adapter's folder brings beside weights: its chat template, tokenizer and special tokens."""

import json
import shutil
import warnings

import lora
import pytest
import test_gguf
import tiny

import edgert
from edgert.bundle import CHAT_TEMPLATE, TOKENIZER, open_bundle
from edgert.errors import CheckpointError, EdgertWarning
from edgert.export import ExportOptions, export
from edgert.export.checkpoint.adapter import merged
from edgert.export.checkpoint.source import open_checkpoint

BASE = tiny.random_tensors(tiny.Tiny().config)
CASE = lora.uniform([f"model.layers.{n}.self_attn.{m}_proj" for n in range(3) for m in "qv"], 2.0)
OWN = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}{{ eos_token }}"


@pytest.fixture
def adapter(checkpoints, tmp_path):
    """An adapter with a copy of its base's texts, as a trainer saves them."""
    folder = lora.write(tmp_path / "lora", CASE, BASE)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoints("llama") / name, folder)
    return folder


def change(path, **changes):
    table = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**table, **changes}), "utf-8")


def change_tokens(path, edit):
    table = json.loads(path.read_text("utf-8"))
    edit(table)
    path.write_text(json.dumps(table), "utf-8")


def opened(checkpoints, adapter):
    """The merged checkpoint, and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        return merged(open_checkpoint(checkpoints("llama")), [adapter]), [str(w.message) for w in said]


def test_texts_that_are_the_bases_are_no_matter(adapter, checkpoints):
    """A trainer's lengths to cut and to fill up to, and JSON in other words, change nothing."""
    truncation = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    change(adapter / "tokenizer.json", truncation=truncation)
    base = open_checkpoint(checkpoints("llama"))
    checkpoint, said = opened(checkpoints, adapter)
    assert not said
    assert checkpoint.tokenizer.tokenizer == base.tokenizer.tokenizer
    assert checkpoint.generation == base.generation


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_the_own_template_of_a_merged_adapter_wins(place, adapter, checkpoints, tmp_path):
    if place == "chat_template.jinja":
        (adapter / place).write_text(OWN, "utf-8")
    else:
        change(adapter / place, chat_template=OWN)
    bundle = tmp_path / "bundle"
    with pytest.warns(EdgertWarning, match="lora: its own chat template is used instead of the base's$"):
        export(checkpoints("llama"), bundle, ExportOptions(adapters=(adapter,), quant="fp32"))
    assert (bundle / CHAT_TEMPLATE).read_text("utf-8") == OWN
    with edgert.load(bundle, context=64) as model:
        assert model.tokens_of("fox") == model.tokenizer.encode_rendered("[fox]<|end|>")


def test_the_own_tokenizer_and_end_of_a_merged_adapter_win(adapter, checkpoints, tmp_path):
    change(adapter / "tokenizer_config.json", eos_token="<|user|>")
    change(adapter / "tokenizer.json", normalizer={"type": "Lowercase"})
    bundle = tmp_path / "bundle"
    said = "lora: its own tokenizer and special tokens are used instead of the base's$"
    with pytest.warns(EdgertWarning, match=said):
        export(checkpoints("llama"), bundle, ExportOptions(adapters=(adapter,), quant="fp32"))
    generation = open_bundle(bundle).manifest.generation
    assert generation.eos_token == "<|user|>" and generation.eos_token_ids == (
        1,
        tiny.SPECIAL.index("<|user|>"),
    )
    assert "Lowercase" in (bundle / TOKENIZER).read_text("utf-8")


def test_a_template_that_thinks_is_drawn_as_such(adapter, checkpoints):
    (adapter / "chat_template.jinja").write_text(OWN + "<think>", "utf-8")
    checkpoint, _ = opened(checkpoints, adapter)
    assert checkpoint.generation.temperature == 0.6


def test_a_gguf_base_starts_texts_as_before(adapter, tmp_path):
    """What adds BOS there is said by the file, not by the tokenizer's own files."""
    (adapter / "tokenizer.json").unlink()
    path = test_gguf.write(tmp_path / "model.gguf", tiny.Tiny().config, BASE)
    base = open_checkpoint(path)
    assert merged(base, [adapter]).generation.add_bos == base.generation.add_bos


def test_of_a_separate_adapter_it_is_said_that_the_bases_are_used(adapter, checkpoints, tmp_path):
    (adapter / "chat_template.jinja").write_text(OWN, "utf-8")
    options = ExportOptions(separate_adapters={"law": adapter}, quant="fp32")
    said = "lora: its own chat template differs from the base's, which it is used with, too: --adapter merges"
    with pytest.warns(EdgertWarning, match=said):
        export(checkpoints("llama"), tmp_path / "bundle", options)
    assert (tmp_path / "bundle" / CHAT_TEMPLATE).read_text("utf-8") == tiny.TEMPLATE


def added(table):
    last = {**table["added_tokens"][-1], "content": "<|law|>", "id": tiny.VOCAB}
    table["added_tokens"].append(last)


def swapped(table):
    vocab = table["model"]["vocab"]
    vocab["t"], vocab["h"] = vocab["h"], vocab["t"]


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (added, "lora/tokenizer.json: token '<|law|>' (id 320) is not in the base's vocabulary: merge it"),
        (swapped, "the base's tokenizer gives it"),
    ],
)
@pytest.mark.parametrize("how", ["merged", "separate"])
def test_another_vocabulary_is_refused_by_name(edit, named, how, adapter, checkpoints, tmp_path):
    change_tokens(adapter / "tokenizer.json", edit)
    options = {"adapters": (adapter,)} if how == "merged" else {"separate_adapters": {"law": adapter}}
    with pytest.raises(CheckpointError) as error:
        export(checkpoints("llama"), tmp_path / "bundle", ExportOptions(quant="fp32", **options))
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("tokenizer.json", "{}", "tokenizer.json: can't be loaded"),
        ("tokenizer_config.json", "{", "tokenizer_config.json, line 1: not valid JSON"),
        ("tokenizer_config.json", '{"eos_token": "<|law|>"}', "eos_token '<|law|>' is not in the base's"),
        ("tokenizer.json", "\xff", "lora/tokenizer.json: not UTF-8 text"),
        ("tokenizer_config.json", "[" * 99_999, "lora/tokenizer_config.json: its JSON is nested too deeply"),
        ("tokenizer_config.json", "[]", "lora/tokenizer_config.json: expected a JSON object"),
        ("tokenizer_config.json", '{"chat_template": 5}', "lora/tokenizer_config.json: chat_template must"),
        ("tokenizer_config.json", '{"chat_template": ["x"]}', "lora/tokenizer_config.json: malformed"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}', "malformed (KeyError"),
        ("tokenizer_config.json", '{"chat_template": {"default": "x"}}', "chat_template must be a text"),
        ("tokenizer_config.json", '{"eos_token": 5}', "eos_token must be a text, not 5"),
        ("tokenizer_config.json", '{"bos_token": {"content": []}}', "bos_token must be a text, not []"),
        ("chat_template.jinja", "{% for", "lora: "),
        ("chat_template.jinja", "\xff", "lora/chat_template.jinja: not UTF-8 text"),
    ],
)
def test_damaged_texts_are_named(name, text, named, adapter, checkpoints):
    (adapter / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError) as error:
        merged(open_checkpoint(checkpoints("llama")), [adapter])
    assert named in str(error.value).replace("\\", "/") and "\n" not in str(error.value)
