"""`edgert serve` as programs meet it: a real server on loopback, and the official OpenAI client."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest
import uvicorn

import edgert
from edgert.batch.setup import Setup
from edgert.bundle import open_bundle
from edgert.serve.app import application
from edgert.serve.desk import Desk
from edgert.serve.models import Models, Served

ASK = [{"role": "user", "content": "the quick brown fox"}]


@contextmanager
def serving(*served: Served, queue: int = 16, keep_alive_s: float = 300.0) -> Iterator[tuple[str, Desk]]:
    """The address of a server in a thread of its own."""
    desk = Desk(Models(served, keep_alive_s), queue)
    config = uvicorn.Config(application(desk), port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    started = threading.Event()
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]

    async def run() -> None:
        serve = asyncio.ensure_future(server.serve())
        while not server.started and not serve.done():
            await asyncio.sleep(0.01)
        started.set()
        await serve

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    started.wait()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", desk
    finally:
        server.should_exit = True
        thread.join()


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


def test_a_client_that_goes_away_stops_its_answer(tiny_bundle: Served) -> None:
    with serving(tiny_bundle) as (url, desk):
        body = {"model": "tiny", "messages": ASK, "stream": True}
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            next(answer.iter_lines())
        for _ in range(200):
            if not desk.asked["tiny"]:
                break
            threading.Event().wait(0.01)
        assert not desk.asked["tiny"]


def test_a_full_queue_refuses(tiny_bundle: Served) -> None:
    with serving(tiny_bundle, queue=1) as (url, desk):
        desk.asked["tiny"] = 1  # as while it answers
        refused = httpx2.post(f"{url}/v1/chat/completions", json={"messages": ASK})
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"


def test_a_model_that_nobody_asks_is_put_away(tiny_bundle: Served) -> None:
    async def ask() -> None:
        models = Models([tiny_bundle], keep_alive_s=0.0)
        async with models.use(tiny_bundle) as model:
            await models.put_away_idle()
            assert model.generate(ASK, max_tokens=1).token_ids
        assert models.loaded
        await models.put_away_idle()
        assert not models.loaded

    asyncio.run(ask())
