"""Properties of answers that hold for any model, on a tiny one."""

import math

import numpy as np
import pytest
import tiny

import edgert
from edgert import home
from edgert.export import ExportOptions, export

HI = [{"role": "user", "content": "the quick brown fox"}]


def text_of(model, **options):
    return "".join(chunk.text for chunk in model.stream(HI, **{"max_tokens": 20, **options}))


def test_stream_joined_equals_generate(model):
    reply = model.generate(HI, max_tokens=20)
    assert reply.text == text_of(model)
    assert len(reply.token_ids) == 20 and reply.finish_reason == "length"


def test_temperature_zero_is_deterministic(model):
    assert model.generate(HI, max_tokens=20).token_ids == model.generate(HI, max_tokens=20, seed=5).token_ids


def test_a_prompt_that_was_cached_gives_the_same_logits(model):
    """Bit for bit: at least two tokens are read again, with the kernels that read them the first time."""
    first = model.generate(HI, max_tokens=20, logprobs=3, fresh=True)
    again = model.generate(HI, max_tokens=20, logprobs=3)
    assert again.timings.cached_tokens == again.timings.prompt_tokens - 2
    assert again.tokens == first.tokens


def test_a_seed_makes_sampling_reproducible(model):
    def once(seed):
        return model.generate(HI, max_tokens=20, temperature=1.5, seed=seed).token_ids

    assert once(1) == once(1)
    assert once(1) != once(2)


def test_a_fresh_answer_is_reproducible_whatever_the_cache_holds(model):
    """An answer's own tokens are rounded otherwise when a prompt repeats them: fresh reuses nothing."""
    model.generate([{"role": "user", "content": "jumps over"}], max_tokens=5)
    options = {"max_tokens": 20, "temperature": 1.5, "seed": 3, "logprobs": 1, "fresh": True}
    first, again = (model.generate(HI, **options) for _ in range(2))
    assert first.tokens == again.tokens
    assert again.timings.cached_tokens == 0


def test_a_question_is_a_user_message(model):
    assert model.tokens_of("fox") == model.tokens_of([{"role": "user", "content": "fox"}])


def test_token_ids_are_taken_as_they_are(model):
    assert model.tokens_of([5, 6, 7]) == [5, 6, 7]
    assert model.tokens_of(np.array([5, 6, 7])) == [5, 6, 7]
    assert model.logits(np.array([5, 6])).shape == (2, tiny.VOCAB)


def test_rendered_prompts_have_one_bos(model):
    ids = model.tokens_of(HI)
    assert ids[0] == 0 and ids.count(0) == 1


def test_a_second_turn_reuses_the_first(model):
    """The answer must be the one a fresh model gives, the time that of the new tokens only."""
    first = model.generate(HI, max_tokens=8)
    longer = [*HI, {"role": "assistant", "content": first.text}, {"role": "user", "content": "jumps"}]
    reused = model.generate(longer, max_tokens=8)
    assert reused.timings.cached_tokens >= len(model.tokens_of(HI)) - 2
    assert reused.token_ids == edgert.load(model.bundle.folder).generate(longer, max_tokens=8).token_ids


def test_every_eos_id_ends_the_answer(tmp_path, model):
    """A token that greedy decoding says after some others becomes an end: the answer stops before it."""
    said = model.generate(HI, max_tokens=20).token_ids
    end = next(token for token in said if token != said[0])
    for place in ({"overrides": {"eos_token_id": end}}, {"generation": {"eos_token_id": [7, end]}}):
        source = tiny.write(tmp_path / "c", tiny.Tiny(**place))
        bundle = export(source, tmp_path / "b", ExportOptions(force=True, verify=False)).folder
        reply = edgert.load(bundle).generate(HI, max_tokens=20)
        assert reply.finish_reason == "stop"
        assert reply.token_ids == said[: said.index(end)]


def test_stop_strings_end_the_answer_and_are_not_shown(model):
    whole = model.generate(HI, max_tokens=20).text
    stop = whole[6:9]
    reply = model.generate(HI, max_tokens=20, stop=[stop])
    assert reply.text == whole[: whole.index(stop)]
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize(
    "kind", [lambda stop: stop, lambda stop: [stop], lambda stop: (s for s in ["", stop][1:])]
)
def test_one_stop_string_or_several_from_anything(model, kind):
    whole = model.generate(HI, max_tokens=20).text
    reply = model.generate(HI, max_tokens=20, stop=kind(whole[6:9]))
    assert reply.finish_reason == "stop" and reply.text == whole[: whole.index(whole[6:9])]


def test_numbers_from_numpy_and_prompts_from_generators_are_taken(model):
    expected = model.generate(HI, max_tokens=4).token_ids
    assert model.generate((message for message in HI), max_tokens=np.int64(4)).token_ids == expected
    assert model.generate(iter(model.tokens_of(HI)), max_tokens=4).token_ids == expected


def test_loops_are_stopped_where_that_is_asked_for(model):
    """A bias makes the model say one token for ever."""
    options = {"max_tokens": 200, "logit_bias": {9: 1e5}}
    assert model.generate(HI, **options).finish_reason == "length"
    reply = model.generate(HI, stop_loops=True, **options)
    assert reply.finish_reason == "loop" and set(reply.token_ids) == {9}
    assert 64 < len(reply.token_ids) < 200


def test_logprobs_come_with_each_token(model):
    reply = model.generate(HI, max_tokens=3, logprobs=4)
    for token in reply.tokens:
        assert token.logprob is not None and len(token.top_logprobs) == 4
        assert token.top_logprobs[0] == (token.id, pytest.approx(token.logprob))
        assert sum(math.exp(p) for _, p in token.top_logprobs) < 1


def test_logprobs_agree_with_logits(model):
    ids = model.tokens_of(HI)
    row = model.logits(ids)[-1]
    token = model.generate(ids, max_tokens=1, logprobs=0).tokens[0]
    expected = row[token.id] - row.max() - math.log(float(sum(math.exp(x - row.max()) for x in row)))
    assert token.logprob == pytest.approx(expected, abs=1e-4)


def test_every_chunk_carries_its_measures(model):
    chunks = list(model.stream(HI, max_tokens=5))
    assert [c.timings.answer_tokens for c in chunks] == [1, 2, 3, 4, 5, 5]
    assert [c.finish_reason for c in chunks] == [None] * 5 + ["length"]
    assert chunks[-1].timings.decode_tokens_per_s > 0 and chunks[0].timings.prefill_s > 0


def test_a_prompt_longer_than_the_context_is_an_error_with_both_numbers(bundles):
    model = edgert.load(bundles(), context=16)
    with pytest.raises(edgert.PromptTooLong, match="has 20 tokens, the context holds 16") as caught:
        model.generate(list(range(5, 25)))
    assert (caught.value.prompt_tokens, caught.value.context) == (20, 16)
    with pytest.raises(edgert.PromptTooLong):
        model.logits(list(range(5, 25)))


def test_an_answer_ends_where_the_context_ends(bundles):
    reply = edgert.load(bundles(), context=24).generate(list(range(5, 20)))
    assert reply.finish_reason == "length" and len(reply.token_ids) == 9


def test_sampling_defaults_are_the_models_own(tmp_path):
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
    source = tiny.write(tmp_path / "c", tiny.Tiny(generation=generation))
    model = edgert.load(export(source, tmp_path / "b", ExportOptions(verify=False)).folder)
    assert (model.sampling.temperature, model.sampling.top_p) == (0.6, 0.95)
    assert model.request(temperature=0.0).sampling.top_p == 0.95


def test_a_top_k_of_minus_one_is_off(tmp_path):
    generation = {"do_sample": True, "temperature": 0.6, "top_k": -1}
    source = tiny.write(tmp_path / "c", tiny.Tiny(generation=generation))
    assert edgert.load(export(source, tmp_path / "b", ExportOptions(verify=False)).folder).sampling.top_k == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stop": ["x", 5]}, "stop"),
        ({"stop_loops": 1}, "stop_loops"),
        ({"beams": 2}, "unknown option 'beams'"),
    ],
)
def test_impossible_options_are_refused(model, options, message):
    with pytest.raises(edgert.UsageError, match=message):
        model.stream(HI, **options)


def test_a_model_without_a_template_continues_text(tmp_path):
    source = tiny.write(tmp_path / "c")
    (source / "tokenizer_config.json").write_text("{}")
    model = edgert.load(export(source, tmp_path / "b", ExportOptions(verify=False)).folder)
    assert model.generate("the quick", max_tokens=3).timings.prompt_tokens == len(
        model.tokenizer.encode("the quick")
    )
    with pytest.raises(edgert.UsageError, match="no chat template"):
        model.generate(HI)


@pytest.mark.parametrize(
    "bad", [[], [5, 999], None, 5, b"hi", "\ud800", [5, {"role": "user", "content": "x"}]]
)
def test_prompts_are_checked(model, bad):
    with pytest.raises(edgert.UsageError):
        model.generate(bad)


def test_a_pulled_bundle_is_loaded_by_name(checkpoints):
    export(checkpoints("llama"), home.bundle_folder("mine"), ExportOptions(verify=False))
    assert edgert.load("mine").bundle.manifest.name == "mine"
