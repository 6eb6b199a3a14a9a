"""Ollama's API as programs meet it: a real server on loopback, and the official client."""

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import ollama
import pytest
from serving import ASK, serving

import edgert
from edgert.batch.setup import Setup
from edgert.bundle import open_bundle
from edgert.errors import UsageError
from edgert.serve.app import Policy
from edgert.serve.desk import Desk
from edgert.serve.models import Models, Served
from edgert.serve.ollama.asking import Asking
from edgert.serve.ollama.body import GenerateBody
from edgert.serve.ollama.options import seconds
from edgert.serve.outgoing import Outgoing
from edgert.serve.record import Record

GREEDY = {"temperature": 0, "num_predict": 12, "num_ctx": 4096}


@pytest.fixture(scope="module")
def server(bundles: Callable[..., Path]) -> Iterator[str]:
    folder = bundles()
    with serving(Served("tiny", open_bundle(folder), Setup(str(folder), conversations=2))) as (url, _):
        yield url


@pytest.fixture
def client(server: str) -> Iterator[ollama.Client]:
    client = ollama.Client(server)
    yield client
    client._client.close()


def test_the_official_client_gets_the_models_own_answer(client: ollama.Client, model: edgert.Model) -> None:
    expected = model.generate(ASK, max_tokens=12, temperature=0.0)
    whole = client.chat("tiny", ASK, options=GREEDY)
    assert whole.message.content == expected.text
    assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 12)
    assert whole.prompt_eval_count == expected.timings.prompt_tokens
    assert whole.total_duration >= whole.eval_duration > 0
    *pieces, last = client.chat("tiny:latest", ASK, options=GREEDY, stream=True)
    assert "".join(piece.message.content for piece in pieces) == expected.text
    assert last.done and last.eval_count == 12 and not any(piece.done for piece in pieces)


def test_a_question_and_a_text(client: ollama.Client, model: edgert.Model) -> None:
    told = [{"role": "system", "content": "fox"}, ASK[0]]
    said = model.generate(told, max_tokens=12, temperature=0.0).text
    assert client.generate("tiny", ASK[0]["content"], system="fox", options=GREEDY).response == said
    ids = model.tokenizer.encode("the quick")
    raw = model.generate(ids, max_tokens=12, temperature=0.0).text
    pieces = client.generate("tiny", "the quick", raw=True, options=GREEDY, stream=True)
    assert "".join(piece.response for piece in pieces) == raw


def test_a_schema_holds_the_answer(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    schema["additionalProperties"] = False
    options = {"temperature": 1, "seed": 1, "num_predict": 60}
    answer = client.chat("tiny", ASK, format=schema, options=options)
    assert json.loads(answer.message.content)["n"] in (1, 2)


def test_log_probabilities(client: ollama.Client, model: edgert.Model) -> None:
    expected = model.generate(ASK, max_tokens=12, temperature=0.0, logprobs=2).tokens
    whole = client.chat("tiny", ASK, options=GREEDY, logprobs=True, top_logprobs=2).logprobs
    assert [entry.logprob for entry in whole] == [token.logprob for token in expected]
    pieces = client.chat("tiny", ASK, options=GREEDY, logprobs=True, top_logprobs=2, stream=True)
    assert [entry for piece in pieces for entry in piece.logprobs or ()] == whole


def test_what_there_is_and_what_is_loaded(client: ollama.Client, server: str) -> None:
    client.generate("tiny")  # asks nothing: loads
    (listed,), (loaded,) = client.list().models, client.ps().models
    assert listed.model == loaded.model == "tiny:latest"
    assert listed.details.quantization_level == "INT8"
    assert loaded.context_length > 0 and loaded.expires_at > listed.modified_at
    about = client.show("tiny")
    assert about.capabilities == ["completion"]
    assert about.modelinfo["general.architecture"] == "llama"
    assert client.generate("tiny", keep_alive=0).done_reason == "unload"
    assert not client.ps().models
    assert httpx2.get(f"{server}/api/version").json() == {"version": edgert.__version__}


@pytest.mark.parametrize(
    ("address", "body", "status", "says"),
    [
        ("chat", {"model": "tin", "messages": ASK}, 404, "no model 'tin'"),
        ("chat", {"messages": ASK}, 400, "model: Field required"),
        ("chat", {"messages": ASK, "options": {"temperature": "hot"}}, 400, "temperature"),
        ("chat", {"messages": ASK, "options": {"mirostat": 2}}, 400, "no such sampler"),
        ("chat", {"messages": ASK, "options": {"heat": 2}}, 400, "options.heat: no such option"),
        ("chat", {"messages": [{**ASK[0], "images": ["AA=="]}]}, 400, "images can't be read"),
        ("chat", {"messages": ASK, "think": True}, 400, "doesn't think"),
        ("chat", {"messages": ASK, "tools": [{"function": {"name": "f"}}]}, 400, "takes none"),
        ("chat", {"messages": ASK, "keep_alive": "soon"}, 400, "keep_alive"),
        ("chat", {"messages": ASK, "format": "yaml"}, 400, "format must be"),
        ("generate", {"prompt": "fox", "suffix": "!"}, 400, "suffix can't be used here"),
        ("show", {"model": "tin"}, 404, "no model 'tin'"),
        ("pull", {"model": "tiny"}, 501, "edgert pull"),
        ("embed", {"model": "tiny", "input": "a"}, 501, "no embeddings"),
    ],
)
def test_what_is_wrong_is_said_with_a_status(server, address, body, status, says) -> None:
    told = body if "model" in body or "Field required" in says else {"model": "tiny", **body}
    answer = httpx2.post(f"{server}/api/{address}", json=told)
    assert answer.status_code == status
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), (5, 5), (-1, math.inf), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), ("-5m", math.inf)],
)
def test_times_are_read_as_their_clients_write_them(given, expected) -> None:
    assert seconds(given) == expected


@pytest.mark.parametrize("given", ["", "m", "5x", "1h 30m", "nan", "5m-"])
def test_what_is_no_time_is_refused(given) -> None:
    with pytest.raises(UsageError, match="keep_alive must be"):
        seconds(given)


def test_a_model_stays_as_long_as_its_last_request_asks(bundles: Callable[..., Path]) -> None:
    folder = bundles()
    served = Served("tiny", open_bundle(folder), Setup(str(folder)))
    with serving(served, keep_alive_s=300.0) as (url, desk):
        for body, stays_s in (({"keep_alive": -1}, math.inf), ({"options": {"seed": -1}}, 300.0)):
            told = {"model": "tiny", "prompt": "fox", "stream": None, **body}
            assert httpx2.post(f"{url}/api/generate", json=told).status_code == 200
            assert desk.models.loaded["tiny"].keep_alive_s == stays_s
        assert httpx2.post(f"{url}/api/show", json={"model": "tiny", "name": None}).status_code == 200


def test_the_client_raises_what_is_wrong(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="no model") as caught:
        list(client.chat("other", ASK, stream=True))
    assert caught.value.status_code == 404


def test_all_that_is_refused_is_told_as_a_text(bundles: Callable[..., Path]) -> None:
    folder = bundles()
    served = Served("tiny", open_bundle(folder), Setup(str(folder), conversations=2))
    with serving(served, policy=Policy(key="secret", hosts=("127.0.0.1",))) as (url, _):
        key = {"authorization": "Bearer secret"}
        for path, headers, status in (
            ("/api/tags", {}, 401),
            ("/api/tags", {"host": "evil.example"}, 403),
            ("/api/nothing", key, 404),
            ("/api/chat", key, 405),
        ):
            answer = httpx2.get(f"{url}{path}", headers=headers)
            assert (answer.status_code, type(answer.json()["error"])) == (status, str)
        assert answer.headers["allow"] == "POST"


def test_a_model_that_is_unloaded_while_it_answers_goes_then(bundles: Callable[..., Path]) -> None:
    folder = bundles()
    served = Served("tiny", open_bundle(folder), Setup(str(folder), conversations=2))

    async def ask() -> None:
        models = Models([served], keep_alive_s=300.0)
        out = Outgoing(sent, Record("/api/generate"))
        async with models.use(served):
            await Asking(Desk(models, 1))(GenerateBody(model="tiny", keep_alive=0), out)
            assert models.loaded
        await models.put_away_idle()
        assert not models.loaded

    async def sent(_: object) -> None:
        """Nobody looks at it."""

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("given", "means"), [(5, 5), ("5m", 300), ("1.5h", 5400), ("500ms", 0.5), (-1, float("inf")), ("0", 0)]
)
def test_times_to_stay(given: float | str, means: float) -> None:
    assert seconds(given) == means
