"""`edgert serve`: who may ask, how much, what is noted, how models come and go, and how it ends."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from serving import ASK, serving

import edgert
from edgert.answering.reply import Chunk
from edgert.batch.setup import Setup
from edgert.bundle import open_bundle
from edgert.cli import main
from edgert.errors import UsageError
from edgert.serve.app import Policy
from edgert.serve.desk import Answering, Busy, Desk
from edgert.serve.endpoint import Limits
from edgert.serve.log import Log
from edgert.serve.models import Models, Served
from edgert.serve.record import Record
from edgert.text.prompt import PromptEncoder


@pytest.fixture(scope="module")
def tiny_bundle(bundles: Callable[..., Path]) -> Served:
    folder = bundles()
    return Served("tiny", open_bundle(folder), Setup(str(folder), conversations=2))


@pytest.fixture(scope="module")
def server(tiny_bundle: Served) -> Iterator[str]:
    with serving(tiny_bundle) as (url, _):
        yield url


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


def test_an_answer_that_outlasts_the_grace_is_told_so(
    tiny_bundle: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(answering: Answering) -> AsyncIterator[Chunk]:
        async for chunk in answering.stream:
            yield replace(chunk, text="x")
            await asyncio.sleep(60)

    monkeypatch.setattr(Answering, "chunks", endless)
    body = {"model": "tiny", "messages": ASK, "stream": True}
    with serving(tiny_bundle) as (url, _):
        request = httpx2.Client().build_request("POST", f"{url}/v1/chat/completions", json=body)
        answer = (client := httpx2.Client(timeout=30)).send(request, stream=True)
        lines = answer.iter_lines()
        next(lines)
    last = [line for line in lines if line][-1]
    client.close()
    assert "the server is shutting down" in last


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


def test_a_load_goes_on_when_who_asked_has_gone(tiny_bundle: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, may_open = [], threading.Event()

    def slow(setup: Setup) -> edgert.Model:
        may_open.wait(5)
        opened.append(setup)
        return edgert.load(setup.folder, conversations=2)

    async def ask(models: Models) -> None:
        async with models.use(tiny_bundle) as model:
            assert model.generate(ASK, max_tokens=1).token_ids

    async def leave_and_ask_again() -> None:
        models = Models([tiny_bundle], keep_alive_s=300.0)
        first = asyncio.create_task(ask(models))
        await asyncio.sleep(0.01)
        first.cancel()
        second = asyncio.create_task(ask(models))
        await asyncio.sleep(0.01)
        may_open.set()
        await second
        await models.put_away_idle()
        assert models.loaded and len(opened) == 1
        await models.close()

    monkeypatch.setattr(Setup, "open", slow)
    asyncio.run(leave_and_ask_again())


def test_a_model_may_be_closed_while_idle_ones_are_put_away(tiny_bundle: Served) -> None:
    async def ask() -> None:
        models = Models([tiny_bundle, replace(tiny_bundle, name="other")], keep_alive_s=0.0)
        for name in models.served:
            async with models.use(models.named(name)):
                pass
        await asyncio.gather(models.put_away_idle(), models.put_away("other"))
        assert not models.loaded

    asyncio.run(ask())


def test_what_was_refused_says_nothing_of_the_time_to_wait(
    tiny_bundle: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    async def ask() -> int:
        desk = Desk(Models([tiny_bundle], keep_alive_s=300.0), queue=1)
        with pytest.raises(UsageError):
            async with desk.use(tiny_bundle, Record("/")):
                raise UsageError("refused")
        async with desk.use(tiny_bundle, Record("/")):
            now[0] += 9
        with pytest.raises(Busy) as busy:
            async with desk.use(tiny_bundle, Record("/")), desk.use(tiny_bundle, Record("/")):
                pass
        await desk.models.close()
        return busy.value.retry_after_s

    monkeypatch.setattr("edgert.serve.desk.time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert asyncio.run(ask()) == 5  # two are answered at a time


@pytest.mark.parametrize(
    ("address", "body"), [("/v1/chat/completions", {"messages": ASK}), ("/talk/ask", {"content": "fox"})]
)
def test_others_are_answered_while_a_prompt_is_read(
    tiny_bundle: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    body: dict[str, object],
) -> None:
    read, reading, may_end = PromptEncoder.encode, threading.Event(), threading.Event()

    def slow(*told: Any, **how: Any) -> Any:
        reading.set()
        may_end.wait(5)
        return read(*told, **how)

    monkeypatch.setenv("EDGERT_STATE", str(tmp_path))
    monkeypatch.setattr(PromptEncoder, "encode", slow)
    with serving(tiny_bundle) as (url, _), ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx2.post, f"{url}{address}", json={**body, "max_tokens": 1}, timeout=30)
        assert reading.wait(5)
        assert httpx2.get(f"{url}/health", timeout=3).status_code == 200
        may_end.set()
        assert asked.result().status_code == 200


def test_other_addresses_and_methods_say_so_in_json(server: str) -> None:
    assert httpx2.get(f"{server}/v1/nothing").json()["error"]["message"] == "there is nothing at this address"
    assert httpx2.get(f"{server}/v1/chat/completions").status_code == 405


def test_bodies_that_are_no_requests(server: str) -> None:
    deep = b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for content, says in (
        (deep, "nested too deeply"),
        (b"{", "is not JSON"),
        (b"[1]", "the body: Input should"),
    ):
        answer = httpx2.post(f"{server}/v1/chat/completions", content=content)
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]


def test_a_failure_of_the_server_is_told_and_noted(
    tiny_bundle: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Answering) -> None:
        raise ZeroDivisionError

    noted: list[int] = []
    monkeypatch.setattr(Answering, "chunks", fail)
    with serving(tiny_bundle, notes=[lambda record: noted.append(record.status)]) as (url, _):
        answer = httpx2.post(f"{url}/v1/chat/completions", json={"messages": ASK})
    assert answer.status_code == 500 and noted == [500]
    assert answer.json()["error"]["type"] == "server_error"


def test_a_key_is_needed_where_there_is_one(tiny_bundle: Served) -> None:
    with serving(tiny_bundle, policy=Policy(key="secret")) as (url, _):
        assert httpx2.get(f"{url}/health").status_code == 200
        assert httpx2.get(f"{url}/v1/models").status_code == 401
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError, match="missing or wrong"),
        ):
            client.models.list()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="secret") as client:
            assert client.models.list().data


def test_a_name_that_is_not_this_machines_is_refused(tiny_bundle: Served) -> None:
    with serving(tiny_bundle, policy=Policy(hosts=("127.0.0.1", "localhost", "[::1]"))) as (url, _):
        assert httpx2.get(f"{url}/v1/models").status_code == 200
        for name, status in (("evil.example", 403), ("localhost:80", 200), ("[::1]:80", 200), ("", 403)):
            assert httpx2.get(f"{url}/v1/models", headers={"host": name}).status_code == status


def test_pages_of_other_sites_may_ask_only_where_they_are_named(tiny_bundle: Served) -> None:
    asks = {"origin": "https://app.example", "access-control-request-method": "POST"}
    for origins, answered in (((), None), (("https://app.example",), "https://app.example")):
        with serving(tiny_bundle, policy=Policy(key="secret", origins=origins)) as (url, _):
            answer = httpx2.options(f"{url}/v1/chat/completions", headers=asks)
            assert answer.headers.get("access-control-allow-origin") == answered


def test_limits_of_size_and_time(tiny_bundle: Served) -> None:
    with serving(tiny_bundle, policy=Policy(limits=Limits(body=100))) as (url, _):
        large = httpx2.post(f"{url}/v1/chat/completions", json={"messages": ASK * 10})
        assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    with serving(tiny_bundle, policy=Policy(limits=Limits(seconds=1e-6))) as (url, _):
        slow = httpx2.post(f"{url}/v1/chat/completions", json={"messages": ASK})
        assert slow.status_code == 504


def test_every_request_is_noted_without_what_it_said(tiny_bundle: Served) -> None:
    lines: list[str] = []
    with serving(tiny_bundle, notes=[Log("json", lines.append), Log("text", lines.append)]) as (url, _):
        body = {"messages": ASK, "max_tokens": 30, "temperature": 0}
        answer = httpx2.post(f"{url}/v1/chat/completions", json=body)
        httpx2.post(f"{url}/v1/chat/completions", json={"model": "other"})
    told = json.loads(lines[0])
    assert (told["status"], told["model"], told["answer_tokens"]) == (200, "tiny", 30)
    assert told["id"] == answer.headers["x-request-id"]
    assert "200 /v1/chat/completions tiny" in lines[1]
    assert json.loads(lines[2])["status"] == 400
    said = answer.json()["choices"][0]["message"]["content"]
    assert not any("fox" in line or said in line for line in lines)


def test_what_nobody_answered_is_noted_without_names_of_conversations(tiny_bundle: Served) -> None:
    lines: list[str] = []
    notes = [Log("text", lines.append)]
    with serving(tiny_bundle, policy=Policy(key="secret"), notes=notes) as (url, _):
        right = {"authorization": "Bearer secret"}
        httpx2.get(f"{url}/v1/models")
        httpx2.get(f"{url}/sessions/the-quick-fox")
        httpx2.get(f"{url}/sessions/the-quick-fox", headers=right)
        httpx2.post(f"{url}/v1/embeddings%0Aforged", headers=right)
        httpx2.get(f"{url}/v1/chat/completions", headers=right)
        assert httpx2.get(f"{url}/v1/models", headers=right).status_code == 200
        text = httpx2.get(f"{url}/metrics", headers=right).text
    told = [" ".join(line.split(" ")[1:3]) for line in lines]
    assert told == [
        "401 /v1/models",
        "401 /sessions",
        "404 /sessions/{name}",
        "404 /v1/embeddings?forged",
        "405 /v1/chat/completions",
    ]
    assert 'edgert_requests_total{model="",route="unknown",status="401"} 2.0' in text
    assert 'route="/v1/models",status="200"} 1.0' in text and "forged" not in text


def test_the_description_names_every_address_and_field(server: str) -> None:
    told = httpx2.get(f"{server}/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/models/{name}", "/api/chat", "/talk/ask"} <= told["paths"].keys()
    post = told["paths"]["/v1/chat/completions"]["post"]
    assert "text/event-stream" in post["responses"]["200"]["content"] and "429" in post["responses"]
    name = post["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    fields = told["components"]["schemas"][name]["properties"]
    assert fields["model"]["examples"] == ["tiny"] and "thinking_budget" in fields


def test_metrics_are_counted_and_parse(tiny_bundle: Served) -> None:
    with serving(tiny_bundle) as (url, _):
        body = {"messages": ASK, "max_tokens": 7, "temperature": 0}
        asked = httpx2.post(f"{url}/v1/chat/completions", json=body).json()["usage"]
        httpx2.post(f"{url}/v1/chat/completions", json={"n": 2})
        text = httpx2.get(f"{url}/metrics").text
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    route = "/v1/chat/completions"
    assert told["edgert_requests_total", "tiny", route, "200"] == 1
    assert told["edgert_requests_total", "", route, "400"] == 1
    assert told["edgert_answer_tokens_total", "tiny"] == 7
    assert told["edgert_prompt_tokens_total", "tiny"] == asked["prompt_tokens"]
    assert told["edgert_time_to_first_token_seconds_count", "tiny"] == 1
    assert told["edgert_kv_tokens", "tiny"] >= asked["prompt_tokens"]
    assert (told["edgert_model_loaded", "tiny"], told["edgert_waiting", "tiny"]) == (1, 0)


def test_two_models_load_without_waiting_for_each_others_answers(tiny_bundle: Served) -> None:
    async def ask() -> None:
        models = Models([tiny_bundle, replace(tiny_bundle, name="other")], keep_alive_s=0.0)
        async with models.use(tiny_bundle), models.use(models.named("other")):
            assert [*models.loaded] == ["tiny", "other"]
        await models.close()
        assert not models.loaded

    asyncio.run(ask())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_server_ends_once_its_answers_have(tiny_bundle: Served) -> None:
    command = [
        sys.executable,
        "-m",
        "edgert",
        "serve",
        tiny_bundle.setup.folder,
        "--port",
        "0",
        "--log",
        "off",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        url = process.stderr.readline().partition(" answers ")[0]
        assert process.stderr.readline().startswith("There: a page to chat in, OpenAI's API")
        body = {"messages": ASK, "temperature": 0}
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            assert "data: [DONE]" in list(lines)
        assert process.wait(20) == 0
        assert (
            process.stderr.read() == "edgert: stopping; answers under way may end, Ctrl-C again cuts them\n"
        )


def test_the_command_line_refuses_what_is_open_by_mistake(tiny_bundle: Served) -> None:
    folder = tiny_bundle.setup.folder
    open_to_all = CliRunner().invoke(main, ["serve", folder, "--host", "0.0.0.0", "--port", "0"])
    assert open_to_all.exit_code == 2
    assert "set a key in EDGERT_API_KEY" in open_to_all.stderr
    for key in (" secret", "sch\u00fcssel"):
        unsendable = CliRunner().invoke(main, ["serve", folder, "--api-key", key, "--port", "0"])
        assert "no client can send the API key" in unsendable.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = CliRunner().invoke(main, ["serve", folder, "--port", port])
    assert f"can't listen at 127.0.0.1, port {port}" in refused.stderr
