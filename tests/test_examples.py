"""Every example runs as a user would run it, on a small bundle, and does what it says."""

import ast
import http.client
import json
import os
import queue
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny

import edgert
from edgert.export import ExportOptions, export

EXAMPLES = Path(__file__).parent.parent / "examples"
QUESTIONS = ["fox", "the lazy dog", "quick", "brown fox jumps", "over", "the"]
SOON_S = 120  # for what takes a second or two on an idle machine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Answers in plain ASCII that never end by themselves; slow enough, at a few milliseconds per token, that
    an answer can be stopped in the middle.
    """
    folder = tmp_path_factory.mktemp("examples")
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "max_position_embeddings": 1024}
    spec = tiny.Tiny(overrides={**sizes, "tie_word_embeddings": False})
    checkpoint = tiny.write(folder / "checkpoint", spec)
    tensors = tiny.random_tensors(spec.config)
    for token, number in tiny.tokenizer().get_vocab().items():
        if not token.isascii() or token in tiny.SPECIAL:
            tensors["lm_head.weight"][number] = 0.0  # never the likeliest
    tiny.save_tensors(checkpoint, tensors)
    config = json.loads((checkpoint / "tokenizer_config.json").read_text("utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # onnxruntime-genai finds no template without it
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    export(checkpoint, folder / "bundle", ExportOptions(calibrate=False, verify=False))
    return folder / "bundle"


@pytest.fixture(scope="module")
def alone(bundle):
    """What each question is answered."""
    with edgert.load(bundle) as model:
        return {question: model.generate(question, max_tokens=200) for question in QUESTIONS}


def run(example, *arguments):
    """Standard output of an example that succeeds and has nothing to complain about."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / example), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=SOON_S, check=False, env=utf8())
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    return done.stdout.decode()


def utf8():
    return {**os.environ, "PYTHONUTF8": "1"}


def lines(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


def test_stream(bundle, alone):
    question = next(iter(alone))
    with edgert.load(bundle) as model:
        text = model.generate(question, max_tokens=120).text
    said = lines(run("stream.py", bundle, question))
    assert said.startswith(lines(text))
    assert "\nanswer: 120 tokens at " in said and "\nfirst token after " in said


def test_tools(bundle, tmp_path):
    said = lines(run("tools.py", bundle))
    assert re.match(r"[\d,]+ people live in ", said) and said.endswith("was not trained to call them\n")
    spec = tiny.Tiny(overrides={"max_position_embeddings": 2048}, template=tiny.TOOL_TEMPLATE)
    export(tiny.write(tmp_path / "c", spec), tmp_path / "b", ExportOptions(calibrate=False, verify=False))
    said = lines(run("tools.py", tmp_path / "b"))
    assert re.search(r"\ncalls weather with {'city': '(Oslo|Paris|Rome)', 'days': \d}\n", said)


def test_threads(bundle):
    said = run("threads.py", bundle)
    with edgert.load(bundle) as model:
        reply = model.generate("Why is the sky blue?", max_tokens=60)
    assert lines(said).startswith(f"Why is the sky blue?\n  {lines(reply.text)}\n")
    assert "4 answers, " in said.splitlines()[-1] and said.rstrip().endswith("per second")


def test_genai(bundle):
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai has no wheel for this platform")
    ours, theirs = run("genai.py", bundle).split("onnxruntime-genai: ")
    assert ours.startswith("edgert:            ")
    assert theirs.strip() and theirs.strip() == ours.removeprefix("edgert:").strip()


class Endpoint:
    """endpoint.py at a port of its own, and what it says on the terminal, as it comes."""

    def __init__(self, bundle):
        command = [sys.executable, "-W", "error", str(EXAMPLES / "endpoint.py"), str(bundle), "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=utf8())
        self.said = queue.SimpleQueue()
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()
        self.port = int(self.next_line().rpartition(":")[2].strip("/"))

    def _listen(self):
        for line in self.process.stdout:
            self.said.put(line.decode().strip())

    def next_line(self):
        return self.said.get(timeout=SOON_S)

    def ask(self, question, method="POST"):
        """The response, once its head has come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON_S)
        connection.request(method, "/", question.encode())
        return connection.getresponse()

    def end(self):
        with self.process:
            self.process.kill()
            self.listener.join()
            return self.process.stderr.read().decode()


@pytest.fixture
def endpoint(bundle):
    running = Endpoint(bundle)
    yield running
    errors = running.end()
    assert not errors, errors


def hang_up(port, question, rudely):
    """A client that goes away after the first byte of its answer, by FIN or by RST."""
    body = question.encode()
    with socket.create_connection(("127.0.0.1", port), timeout=SOON_S) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        seen = b""
        while len(seen.partition(b"\r\n\r\n")[2]) < 5:
            seen += client.recv(1)
        if rudely:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_endpoint_streams_to_several_clients_at_once(endpoint, alone):
    with ThreadPoolExecutor(len(alone)) as pool:
        begun = list(pool.map(endpoint.ask, alone))  # all have begun before any is read to its end
        texts = [response.read().decode() for response in begun]
    assert texts == [reply.text for reply in alone.values()]
    ended = sorted(endpoint.next_line() for _ in alone)
    assert ended == sorted(f"{q!r}: {r.finish_reason}, {len(r.tokens)} tokens" for q, r in alone.items())


@pytest.mark.parametrize("rudely", [False, True], ids=["fin", "rst"])
def test_endpoint_stops_the_answer_of_a_client_that_goes_away(endpoint, alone, rudely):
    leaver, other = list(alone)[:2]
    staying = endpoint.ask(other)
    hang_up(endpoint.port, leaver, rudely)
    first = endpoint.next_line()
    assert first.startswith(f"{leaver!r}: cancelled, ")
    assert int(first.split()[-2]) < len(alone[leaver].tokens) / 2
    assert staying.read().decode() == alone[other].text


def test_endpoint_forgets_a_client_that_goes_away_while_it_waits_for_its_turn(endpoint, bundle):
    with edgert.load(bundle) as model:
        places = model.conversations
    with ThreadPoolExecutor(places) as pool:
        staying = list(pool.map(endpoint.ask, ["fox"] * places))
    endpoint.ask("over").close()
    assert endpoint.next_line() == "'over': cancelled, 0 tokens"
    for response in staying:
        response.read()


def test_endpoint_refuses_what_is_no_question(endpoint):
    response = endpoint.ask("", method="GET")
    assert response.status == 400 and "with POST" in response.read().decode()
    response = endpoint.ask("long " * 2000)
    assert response.status == 400 and "the context holds 1024" in response.read().decode()


# Types, presses Return and Stop as a person would. Notes the longest time in which no event got its turn.
PERSON = """
import json, sys, time
import edgert, window

def person():
    page = lambda: own.page.get("1.0", "end")
    own.line.insert(0, "fox")
    own.line.event_generate("<Return>")
    begun = len(page())
    yield lambda: len(page()) > begun + 20
    streaming, pressed = own.stream is not None, time.perf_counter()
    own.line.insert(0, "not yet")
    own.line.event_generate("<Return>")
    own.button.invoke()
    yield lambda: own.stream is None
    stopped = time.perf_counter() - pressed
    own.line.delete(0, "end")
    own.line.insert(0, "the lazy dog")
    own.line.event_generate("<Return>")
    yield lambda: len(page()) > 400
    own.button.invoke()
    yield lambda: own.stream is None
    facts.update(streaming=streaming, stopped=stopped, page=page(), messages=own.chat.messages)
    own.line.insert(0, "long " * 2000)
    own.line.event_generate("<Return>")
    facts.update(refused=page())
    own.line.delete(0, "end")
    own.line.insert(0, "over")  # and the window is closed while this is being answered
    own.line.event_generate("<Return>")
    begun = len(page())
    yield lambda: len(page()) > begun + 20

def tick(steps, until):
    now = time.perf_counter()
    facts["longest_gap"] = max(facts["longest_gap"], now - facts.pop("last", now))
    if until():
        until = next(steps, None)
    facts["last"] = time.perf_counter()
    own.root.after(5, tick, steps, until) if until else own.root.destroy()

facts = {"longest_gap": 0.0}
with edgert.load(sys.argv[1]) as model:
    own = window.Window(model)
    own.root.update()
    own.line.focus_force()
    own.root.after(5, tick, person(), lambda: True)
    own.root.mainloop()
print(json.dumps(facts))
"""


@pytest.fixture
def display(monkeypatch):
    """A display of this test's own if Xvfb is installed, else the one there is."""
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    server = shutil.which("Xvfb")
    if server is None:
        if sys.platform == "linux" and not os.environ.get("DISPLAY"):
            pytest.skip("no display, and no Xvfb to make one: apt install xvfb, or `make test-window`")
        yield
        return
    reading, writing = os.pipe()
    command = [server, "-displayfd", str(writing), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL) as process:
        os.close(writing)
        with open(reading, encoding="ascii") as number:
            monkeypatch.setenv("DISPLAY", f":{number.readline().strip()}")
        yield
        process.terminate()


def test_window(bundle, display):
    command = [sys.executable, "-W", "error", "-c", PERSON, str(bundle)]
    environment = {**utf8(), "PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(command, capture_output=True, timeout=SOON_S, check=False, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    facts = json.loads(done.stdout)
    assert facts["streaming"] and facts["stopped"] < 1.0
    assert facts["longest_gap"] < 0.5
    assert [message["role"] for message in facts["messages"]] == ["system", *["user", "assistant"] * 2]
    assert facts["page"].startswith("> fox\n") and "\n> the lazy dog\n" in facts["page"]
    assert "not yet" not in facts["page"] and facts["page"].count("(cancelled)") == 2
    assert "(the prompt has " in facts["refused"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_has_a_main_and_uses_public_names_only(path):
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 120
    assert f"python examples/{path.name}" in (ast.get_docstring(tree) or "")
    assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    imported = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    imported += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if name.startswith("edgert")] == ["edgert"]
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "edgert"
    }
    assert used <= set(edgert.__all__)


def test_every_example_is_listed_and_tested():
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f"[`{path.name}`]({path.name})" in listed
        assert any(name.startswith(f"test_{path.stem}") for name in globals())
