"""Other people's programs against the real server: LangChain, the llm tool, and Schemathesis."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import ollama
import openai
import pytest
from serving import ASK, serving

import edgert
from edgert.batch.setup import Setup
from edgert.bundle import open_bundle
from edgert.serve.models import Served

pytestmark = pytest.mark.clients
SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def server(bundles: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("EDGERT_STATE", str(tmp_path))
    folder = bundles()
    with serving(Served("tiny", open_bundle(folder), Setup(str(folder), conversations=4))) as (url, _):
        yield url


@pytest.mark.filterwarnings("default")  # theirs
def test_langchain(server: str, model: edgert.Model) -> None:
    langchain = pytest.importorskip("langchain_openai")
    expected = model.generate(ASK, max_tokens=12, temperature=0.0)
    about = {"base_url": f"{server}/v1", "api_key": "none", "model": "tiny", "temperature": 0}
    chat = langchain.ChatOpenAI(**about, max_tokens=12)
    answer = chat.invoke(ASK[0]["content"])
    assert answer.content == expected.text
    assert answer.usage_metadata["output_tokens"] == 12
    assert "".join(piece.content for piece in chat.stream(ASK[0]["content"])) == expected.text
    schema = {"title": "n", "type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    shaped = langchain.ChatOpenAI(**about).with_structured_output(
        {**schema, "additionalProperties": False}, method="json_schema"
    )
    assert shaped.invoke("fox")["n"] in (1, 2)


def test_the_llm_tool(server: str, model: edgert.Model, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    known = tmp_path / "extra-openai-models.yaml"
    known.write_text(f"- model_id: tiny\n  model_name: tiny\n  api_base: {server}/v1\n  api_key_name: none\n")
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    command = [SCRIPTS / "llm", "-m", "tiny", "-o", "max_tokens", "12", "-o", "temperature", "0", "--no-log"]
    for streamed in ([], ["--no-stream"]):
        asked = [*command, *streamed, ASK[0]["content"]]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == model.generate(ASK, max_tokens=12, temperature=0.0).text.strip()


def test_schemathesis_finds_no_error_of_the_server(server: str, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [SCRIPTS / "schemathesis", "run", f"{server}/openapi.json", "--checks", checks]
    command += ["--max-examples", "40", "--seed", "1", "--request-timeout", "60", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.student
def test_the_official_clients_with_the_real_student(student: Path) -> None:
    served = Served("smollm2", open_bundle(student), Setup(str(student), context=1024, conversations=2))
    with serving(served) as (url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        asked = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
        }
        whole = client.chat.completions.create(**asked, temperature=0, max_tokens=40, logprobs=True)
        assert "Paris" in whole.choices[0].message.content
        spelled = b"".join(bytes(entry.bytes) for entry in whole.choices[0].logprobs.content)
        assert spelled.decode().startswith(whole.choices[0].message.content)
        pieces = client.chat.completions.create(**asked, temperature=0, max_tokens=40, stream=True)
        said = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert said == whole.choices[0].message.content
        schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}}
        schema |= {"required": ["city"], "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
        shaped = client.chat.completions.create(**asked, temperature=0, max_tokens=60, response_format=form)
        assert json.loads(shaped.choices[0].message.content).keys() == {"city"}
        with pytest.raises(openai.BadRequestError, match="template takes none"):
            client.chat.completions.create(**asked, tools=[{"type": "function", "function": {"name": "f"}}])
        home = ollama.Client(url)
        answer = home.chat("smollm2", asked["messages"], options={"temperature": 0, "num_predict": 40})
        assert answer.message.content == whole.choices[0].message.content
        home._client.close()
