"""Stream answers to several web clients at once: python examples/endpoint.py [BUNDLE] [PORT]

$ curl --no-buffer --data "Why is the sky blue?" http://127.0.0.1:8000/

A client that goes away stops its answer. The body of a request is a question, the response is plain text.
"""

import asyncio
import contextlib
import sys
from asyncio import StreamReader, StreamWriter
from email.parser import BytesParser
from functools import partial

import edgert

LONGEST_BODY = 100_000  # bytes
LONGEST_S = 300  # seconds that a client may take, so that nobody holds a place for ever


async def handle(model: edgert.Model, reader: StreamReader, writer: StreamWriter) -> None:
    """One connection: a request, its answer, the end."""
    try:
        async with asyncio.timeout(LONGEST_S):
            question = await read_question(reader)
            await answer(model, question, reader, writer)
    except (ValueError, edgert.UsageError, edgert.PromptTooLong) as error:
        writer.write(head("400 Bad Request") + part(f"{error}\n") + part(""))
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        pass  # too slow, or gone
    finally:
        writer.close()


async def read_question(reader: StreamReader) -> str:
    """The body of an HTTP request. Raises ValueError."""
    try:
        start = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise ValueError("the headers are too long") from error
    headers = BytesParser().parsebytes(start.partition(b"\r\n")[2])  # without "POST / HTTP/1.1"
    length = int(headers["Content-Length"] or 0)
    if not 0 < length <= LONGEST_BODY:
        raise ValueError(f"send a question of 1 to {LONGEST_BODY} bytes with POST")
    return (await reader.readexactly(length)).decode()


async def answer(model: edgert.Model, question: str, reader: StreamReader, writer: StreamWriter) -> None:
    """Send chunks as they come, and say on the terminal how it ended."""
    stream = model.astream(question, max_tokens=200)
    watch = asyncio.create_task(stop_when_gone(stream, reader))
    try:
        writer.write(head("200 OK"))
        async for chunk in stream:
            if chunk.channel == "answer" and chunk.text:  # the thoughts of an R1 are not for clients
                writer.write(part(chunk.text))
                await writer.drain()
        writer.write(part(""))
    finally:
        watch.cancel()
        await stream.aclose()
        reply = await stream.reply()
        print(f"{question!r}: {reply.finish_reason}, {len(reply.tokens)} tokens", flush=True)


async def stop_when_gone(stream: edgert.AsyncStream, reader: StreamReader) -> None:
    """The client sends no more: what is read next is that it hung up."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(1024):
            pass
    stream.stop()


def head(status: str) -> bytes:
    lines = (
        f"HTTP/1.1 {status}",
        "Content-Type: text/plain; charset=utf-8",
        "Transfer-Encoding: chunked",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode()


def part(text: str) -> bytes:
    """A part of the body as HTTP wants it: its length first. An empty one is the end."""
    data = text.encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(bundle: str, port: int) -> None:
    with edgert.load(bundle) as model:
        server = await asyncio.start_server(partial(handle, model), "127.0.0.1", port)
        async with server:
            print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
            await server.serve_forever()


def main() -> None:
    bundle = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(bundle, port))


if __name__ == "__main__":
    main()
