"""OpenAI's API as programs meet it: a real server on loopback, and the official client."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import tiny
from serving import ASK, serving

import edgert
from edgert.batch.setup import Setup
from edgert.bundle import open_bundle
from edgert.export import ExportOptions, export
from edgert.serve import outgoing
from edgert.serve.models import Served


@pytest.fixture(scope="module")
def tiny_bundle(bundles: Callable[..., Path]) -> Served:
    folder = bundles()
    return Served("tiny", open_bundle(folder), Setup(str(folder), conversations=2))


@pytest.fixture(scope="module")
def server(tiny_bundle: Served) -> Iterator[str]:
    with serving(tiny_bundle) as (url, _):
        yield url


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_official_client_gets_the_models_own_answer(client: openai.OpenAI, model: edgert.Model) -> None:
    expected = model.generate(ASK, max_tokens=12, temperature=0.0)
    answer = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=12, temperature=0)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens == expected.timings.prompt_tokens
    assert [card.id for card in client.models.list()] == ["tiny"]


def test_a_stream_says_the_same(client: openai.OpenAI, model: edgert.Model) -> None:
    expected = model.generate(ASK, max_tokens=12, temperature=0.0)
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 12, "temperature": 0}
    *pieces, last = client.chat.completions.create(**asked, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in [*pieces, last]) == expected.text
    assert last.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"model": "tinny"}, 404, "did you mean tiny"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"messages": []}, 400, "message"),
        ({"messages": [{"role": "user", "content": "fox " * 500}]}, 400, "the context holds"),
        ({"temprature": 1}, 400, "temprature"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_said_with_a_status(server, changes, status, says, stream) -> None:
    body = {"model": "tiny", "messages": ASK, "stream": stream, **changes}
    answer = httpx2.post(f"{server}/v1/chat/completions", json=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


def test_stream_options_and_the_first_delta(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 5, "temperature": 0}
    pieces = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-1].choices == []
    assert pieces[-1].usage.completion_tokens == 5
    assert all(piece.usage is None for piece in pieces[:-1])


def test_log_probabilities_are_the_models_own(client: openai.OpenAI, model: edgert.Model) -> None:
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 6, "temperature": 0}
    expected = model.generate(ASK, max_tokens=6, temperature=0.0, logprobs=3).tokens
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3).choices[0].logprobs
    pieces = list(client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, stream=True))
    streamed = [
        entry for piece in pieces if piece.choices[0].logprobs for entry in piece.choices[0].logprobs.content
    ]
    assert streamed == whole.content
    assert [entry.logprob for entry in streamed] == [token.logprob for token in expected]
    assert [len(entry.top_logprobs) for entry in streamed] == [3] * 6
    assert bytes(streamed[0].bytes).decode() == streamed[0].token


def test_a_schema_holds_the_answer(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, response_format=form, temperature=1, seed=1, max_tokens=100
    )
    assert isinstance(json.loads(answer.choices[0].message.content)["n"], int)


TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at a place.",
        "parameters": {"type": "object", "properties": {"far": {"type": "boolean"}}, "required": ["far"]},
    },
}


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The client of a model whose template knows tools."""
    root, tags = tmp_path_factory.mktemp("caller"), ["<tool_call>", "</tool_call>"]
    sizes = {"vocab_size": tiny.VOCAB + len(tags), "max_position_embeddings": 2048}
    source = tiny.write(root / "checkpoint", tiny.Tiny(overrides=sizes, template=tiny.TOOL_TEMPLATE))
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(tags)
    tokenizer.save(str(source / "tokenizer.json"))
    folder = export(source, root / "bundle", ExportOptions(calibrate=False, verify=False)).folder
    served = Served("caller", open_bundle(folder), Setup(str(folder), conversations=2))
    with (
        serving(served) as (url, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as it,
    ):
        yield it


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_tools_are_called(calling: openai.OpenAI, choice: object) -> None:
    asked = {"model": "caller", "messages": ASK, "tools": [TOOL], "tool_choice": choice}
    asked |= {"max_tokens": 200, "temperature": 1.0, "seed": 3}
    answer = calling.chat.completions.create(**asked).choices[0]
    assert answer.finish_reason == "tool_calls"
    call = answer.message.tool_calls[0]
    assert call.function.name == "look"
    assert isinstance(json.loads(call.function.arguments)["far"], bool)
    pieces = list(calling.chat.completions.create(**asked, stream=True))
    assert pieces[-1].choices[0].finish_reason == "tool_calls"
    streamed = next(
        piece.choices[0].delta.tool_calls for piece in pieces if piece.choices[0].delta.tool_calls
    )
    assert streamed[0].function.arguments == call.function.arguments
    said = [*ASK, answer.message.model_dump(exclude_none=True)]
    said.append({"role": "tool", "tool_call_id": call.id, "content": "a fox"})
    further = calling.chat.completions.create(model="caller", messages=said, tools=[TOOL], max_tokens=5)
    assert further.usage.prompt_tokens > 0


def test_no_tool_is_called_where_none_may_be(calling: openai.OpenAI) -> None:
    asked = {"model": "caller", "messages": ASK, "max_tokens": 5, "temperature": 0}
    plain = calling.chat.completions.create(**asked)
    none = calling.chat.completions.create(**asked, tools=[TOOL], tool_choice="none")
    assert none.choices[0].message == plain.choices[0].message


def test_a_text_goes_on(client: openai.OpenAI, model: edgert.Model) -> None:
    ids = model.tokenizer.encode("the quick")
    expected = model.generate(ids, max_tokens=6, temperature=0.0, logprobs=2)
    asked = {"model": "tiny", "prompt": "the quick", "max_tokens": 6, "temperature": 0, "logprobs": 2}
    whole = client.completions.create(**asked)
    assert whole.choices[0].text == expected.text
    assert whole.choices[0].logprobs.token_logprobs == [token.logprob for token in expected.tokens]
    assert client.completions.create(**{**asked, "prompt": [ids]}).choices[0].text == expected.text
    pieces = list(client.completions.create(**asked, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == expected.text


def test_responses_whole_and_streamed(client: openai.OpenAI, model: edgert.Model) -> None:
    told = [{"role": "system", "content": "fox"}, ASK[0]]
    expected = model.generate(told, max_tokens=8, temperature=0.0)
    asked = {"model": "tiny", "input": ASK[0]["content"], "instructions": "fox", "max_output_tokens": 8}
    asked |= {"temperature": 0}
    whole = client.responses.create(**asked)
    assert whole.output_text == expected.text
    assert whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage.output_tokens == 8
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events if not event.type.endswith("delta")]
    begun = ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds == [*begun, "output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert "".join(event.delta for event in events if event.type.endswith("delta")) == expected.text
    assert events[-1].response.output_text == expected.text
    schema = {"type": "object", "properties": {"n": {"enum": [1]}}, "required": ["n"]}
    form = {"type": "json_schema", "name": "n", "schema": {**schema, "additionalProperties": False}}
    with client.responses.stream(model="tiny", input="fox", text={"format": form}) as stream:
        final = stream.get_final_response()
    assert final.status == "completed" and json.loads(final.output_text) == {"n": 1}


def test_a_response_goes_on_with_an_earlier_one(client: openai.OpenAI, model: edgert.Model) -> None:
    first = client.responses.create(model="tiny", input="fox", max_output_tokens=4, temperature=0)
    asked = {"model": "tiny", "max_output_tokens": 4, "temperature": 0, "previous_response_id": first.id}
    second = client.responses.create(input=[{"role": "user", "content": "dog"}], **asked)
    said = [{"role": "user", "content": "fox"}, {"role": "assistant", "content": first.output_text}]
    prompt = [*said, {"role": "user", "content": "dog"}]
    assert second.output_text == model.generate(prompt, max_tokens=4, temperature=0.0).text
    unkept = client.responses.create(model="tiny", input="fox", max_output_tokens=1, store=False)
    with pytest.raises(openai.NotFoundError, match="no response"):
        client.responses.create(model="tiny", input="fox", previous_response_id=unkept.id)


def test_whoever_waits_is_kept_alive_in_streams_only(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment before an answer of JSON would begin another kind of response."""
    monkeypatch.setattr(outgoing, "KEEP_ALIVE_S", 0.0001)
    asked: dict[str, Any] = {"model": "tiny", "input": "the quick brown fox " * 8, "max_output_tokens": 20}
    whole = client.responses.create(**asked, temperature=0)
    events = list(client.responses.create(**asked, temperature=0, stream=True))
    assert events[-1].response.output_text == whole.output_text and whole.usage.output_tokens == 20


def test_responses_call_tools(calling: openai.OpenAI) -> None:
    tool = {"type": "function", **TOOL["function"]}
    asked = {"model": "caller", "tools": [tool], "tool_choice": {"type": "function", "name": "look"}}
    answer = calling.responses.create(input="fox", max_output_tokens=200, **asked)
    call = answer.output[0]
    assert (call.type, call.name) == ("function_call", "look")
    assert isinstance(json.loads(call.arguments)["far"], bool)
    outputs = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "a fox"} for item in answer.output
    ]
    again = {"model": "caller", "tools": [tool], "max_output_tokens": 3}
    later = calling.responses.create(input=outputs, previous_response_id=answer.id, **again)
    items = [{"role": "user", "content": "fox"}, *(item.model_dump() for item in answer.output), *outputs]
    assert calling.responses.create(input=items, **again).usage.input_tokens == later.usage.input_tokens


def test_a_model_is_found_by_its_name(client: openai.OpenAI) -> None:
    assert client.models.retrieve("tiny").owned_by == "edgert"
    with pytest.raises(openai.NotFoundError, match="no model 'tin'"):
        client.models.retrieve("tin")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": [{"type": "web_search_call"}]}, "item 1 must be a message"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "parts of type 'input_image'"),
        ({"tools": [{"type": "web_search"}]}, "only those of type function"),
        ({"background": True}, "background"),
        ({"include": ["message.output_text.logprobs"]}, "include.0: Input should be"),
        ({"tool_choice": "required"}, "tool_choice needs tools"),
        ({"text": {"format": {"type": "xml"}}}, "text.format must be"),
    ],
)
def test_responses_refuse_in_words(server: str, body: dict[str, object], says: str) -> None:
    answer = httpx2.post(f"{server}/v1/responses", json={"input": "fox", **body})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"n": 2}, "n: only one answer is made per request"),
        ({"top_logprobs": 2}, "top_logprobs is for answers with logprobs"),
        ({"stream_options": {}}, "stream_options is for"),
        ({"tools": [TOOL]}, "chat template takes none"),
        ({"tools": [TOOL], "tool_choice": 3}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice needs tools"),
        ({"stop": 5}, "stop: Input should be a valid string or Input should be a valid list"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"logit_bias": {"fox": 1}}, "its keys are token ids"),
        ({"temprature": 1}, "temprature: no such field is known here"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts of type 'image_url'"),
    ],
)
def test_what_cant_be_answered_is_refused_in_words(server: str, body: dict[str, object], says: str) -> None:
    answer = httpx2.post(f"{server}/v1/chat/completions", json={"messages": ASK, **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert says in answer.json()["error"]["message"]


def test_programs_can_tell_what_was_refused(server: str) -> None:
    long = {"messages": [{"role": "user", "content": "fox " * 500}]}
    unknown = {"input": "fox", "previous_response_id": "resp_none"}
    for address, body, code in (
        ("chat/completions", long, "context_length_exceeded"),
        ("chat/completions", {"messages": ASK, "model": "none"}, "model_not_found"),
        ("responses", unknown, None),
    ):
        error = httpx2.post(f"{server}/v1/{address}", json=body).json()["error"]
        assert error["code"] == code
        assert ("--context" in error["message"]) == (code == "context_length_exceeded")


def test_fields_without_a_meaning_here_are_taken(server: str) -> None:
    told = {"user": "me", "store": False, "metadata": {"a": "b"}, "parallel_tool_calls": True, "stop": None}
    body = {"messages": ASK, "max_tokens": 1, "reasoning_effort": "none", "n": 1, **told}
    assert httpx2.post(f"{server}/v1/chat/completions", json=body).status_code == 200
