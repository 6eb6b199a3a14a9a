"""The page's own addresses: files, conversations that outlive the server, who may change them."""

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import serving

import edgert
from edgert.answering.reply import Chunk
from edgert.batch.setup import Setup
from edgert.bundle import open_bundle
from edgert.chat import sessions
from edgert.serve.app import Policy
from edgert.serve.desk import Answering
from edgert.serve.models import Served
from edgert.serve.page.talks import name_for

GREEDY = {"temperature": 0, "max_tokens": 8}


@pytest.fixture
def served(bundles: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    monkeypatch.setenv("EDGERT_HOME", str(tmp_path))
    folder = bundles()
    return Served("tiny", open_bundle(folder), Setup(str(folder), conversations=2))


@pytest.fixture
def server(served: Served) -> Iterator[str]:
    with serving(served) as (url, _):
        yield url


def ask(url: str, content: str, **more: object) -> tuple[list[dict[str, Any]], str]:
    """The events of an answer, and its text."""
    answer = httpx2.post(f"{url}/talk/ask", json={"content": content, **GREEDY, **more})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    return events, "".join(event.get("answer", "") for event in events)


def test_a_conversation_outlives_the_server(served: Served, model: edgert.Model) -> None:
    expected = model.conversation(**GREEDY)  # type: ignore[arg-type]
    with serving(served) as (url, _):
        (begun, *_, ended), said = ask(url, "The quick brown fox!")
        assert begun == {"session": "the-quick-brown-fox"}
        assert said == expected.send("The quick brown fox!").reply.text
        assert ended["end"]["answer_tokens"] == 8 and ended["end"]["left_out"] == 0
    with serving(served) as (url, _):
        (listed,) = httpx2.get(f"{url}/sessions").json()["sessions"]
        assert listed["name"] == "the-quick-brown-fox"
        _, said = ask(url, "and then?", session="the-quick-brown-fox")
        assert said == expected.send("and then?").reply.text
        kept = httpx2.get(f"{url}/sessions/the-quick-brown-fox").json()["messages"]
        assert [message["content"] for message in kept] == [turn["content"] for turn in expected.turns]
    assert sessions.named("the-quick-brown-fox").open().messages == expected.history


def test_a_question_is_edited_and_what_came_after_is_forgotten(server: str, model: edgert.Model) -> None:
    ask(server, "one", session="s")
    ask(server, "two", session="s")
    _, said = ask(server, "three", session="s", after=0)
    assert said == model.generate("three", **GREEDY).text  # type: ignore[arg-type]
    kept = httpx2.get(f"{server}/sessions/s").json()["messages"]
    assert [message["content"] for message in kept] == ["three", said]
    events, _ = ask(server, "four", session="s", after=9)
    assert "has 2 messages" in json.dumps(events) or not events


def test_an_edit_that_is_refused_forgets_nothing(server: str) -> None:
    ask(server, "one", session="s")
    for refused in ({"temperature": -1}, {"content": "fox " * 500}):
        body = {"content": "edited", **refused, "session": "s", "after": 0}
        told = httpx2.post(f"{server}/talk/ask", json=body).text
        assert "temperature must be" in told or "the context holds" in told
    ask(server, "two", session="s")
    kept = httpx2.get(f"{server}/sessions/s").json()["messages"]
    assert [message["content"] for message in kept if message["role"] == "user"] == ["one", "two"]


def test_the_name_of_a_refused_question_is_free_again(server: str) -> None:
    assert httpx2.post(f"{server}/talk/ask", json={"content": "Why?", "temperature": -1}).is_error
    events, _ = ask(server, "Why?")
    assert events[0] == {"session": "why"}
    httpx2.post(f"{server}/talk/remove", json={"session": "why"})
    events, _ = ask(server, "Why?")
    assert events[0] == {"session": "why"}


def test_what_another_process_added_is_gone_on_with(server: str, model: edgert.Model) -> None:
    ask(server, "one", session="s")
    model.conversation(session=sessions.folder("s"), **GREEDY).send("two").reply  # type: ignore[arg-type]  # noqa: B018
    ask(server, "three", session="s")
    assert len(httpx2.get(f"{server}/sessions/s").json()["messages"]) == 6


def test_sessions_are_renamed_and_removed(server: str) -> None:
    ask(server, "one", session="s")
    ask(server, "one", session="t")
    assert httpx2.post(f"{server}/talk/rename", json={"session": "s", "to": "u"}).status_code == 200
    taken = httpx2.post(f"{server}/talk/rename", json={"session": "u", "to": "t"})
    assert "called t already" in taken.json()["error"]["message"]
    assert httpx2.post(f"{server}/talk/remove", json={"session": "u"}).status_code == 200
    assert [kept["name"] for kept in httpx2.get(f"{server}/sessions").json()["sessions"]] == ["t"]
    assert httpx2.get(f"{server}/sessions/u").status_code == 404


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 300])
def test_a_name_never_leads_elsewhere(server: str, name: str, tmp_path: Path) -> None:
    events, _ = ask(server, "one", session=name)
    assert not events or "error" in events[0] or "session" in events[0]
    assert not (tmp_path / "x").exists()
    for path in ("rename", "remove"):
        assert httpx2.post(f"{server}/talk/{path}", json={"session": name, "to": "y"}).status_code == 400


def test_files_are_served_with_a_strict_policy(server: str) -> None:
    page = httpx2.get(server)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'") and "unsafe" not in policy
    for name, kind in (
        ("app.js", "text/javascript"),
        ("style.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ):
        answer = httpx2.get(f"{server}/page/{name}")
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
    for name in ("routes.py", "..%2Froutes.py", "%2e%2e/routes.py", ""):
        assert httpx2.get(f"{server}/page/{name}").status_code == 404


def test_other_sites_change_nothing(served: Served) -> None:
    with serving(served, policy=Policy(origins=("https://app.example",))) as (url, _):
        for origin, status in (("https://evil.example", 403), (url, 404), ("https://app.example", 403)):
            answer = httpx2.post(f"{url}/talk/nothing", json={}, headers={"origin": origin})
            assert answer.status_code == status
        told = {"origin": "https://app.example"}
        assert "access-control-allow-origin" not in httpx2.get(f"{url}/sessions", headers=told).headers
        assert httpx2.get(f"{url}/v1/models", headers=told).headers["access-control-allow-origin"]


def test_the_page_needs_no_key_and_its_conversations_do(served: Served) -> None:
    with serving(served, policy=Policy(key="secret")) as (url, _):
        assert httpx2.get(url).status_code == httpx2.get(f"{url}/page/app.js").status_code == 200
        assert httpx2.get(f"{url}/sessions").status_code == 401
        told = {"authorization": "Bearer secret"}
        assert httpx2.get(f"{url}/sessions", headers=told).status_code == 200


def test_what_is_being_answered_keeps_its_name(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    held, go_on, chunks = threading.Event(), threading.Event(), Answering.chunks

    async def waiting(answering: Answering) -> AsyncIterator[Chunk]:
        async for chunk in chunks(answering):
            yield chunk
            held.set()
            while not go_on.is_set():
                await asyncio.sleep(0.01)

    monkeypatch.setattr(Answering, "chunks", waiting)
    with serving(served) as (url, _), ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, url, "one", session="s", max_tokens=200)
        assert held.wait(10)
        refused = httpx2.post(f"{url}/talk/rename", json={"session": "s", "to": "t"})
        assert "is being answered" in refused.json()["error"]["message"]
        go_on.set()
        asking.result()
        assert httpx2.post(f"{url}/talk/rename", json={"session": "s", "to": "t"}).status_code == 200


def test_a_model_that_is_put_away_is_let_go(served: Served) -> None:
    with serving(served) as (url, desk):
        ask(url, "one", session="s")
        model = weakref.ref(desk.models.loaded["tiny"].model)
        httpx2.post(f"{url}/api/generate", json={"model": "tiny", "keep_alive": 0})
        gc.collect()
        assert not desk.models.loaded and model() is None
        assert ask(url, "two", session="s")[1]


def test_names_of_conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGERT_HOME", str(tmp_path))
    assert name_for("Why is the sky blue, and the grass green?") == "why-is-the-sky-blue-and"
    assert name_for("¿…?") == "conversation"
    assert name_for("fox", {"fox", "fox-2"}) == "fox-3"
    assert name_for("Почему небо голубое?") == "почему-небо-голубое"
