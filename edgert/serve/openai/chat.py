"""`/v1/chat/completions`: the answer to messages, whole or as it comes."""

from __future__ import annotations

from edgert.answering.reply import join
from edgert.serve.desk import Answering, Desk
from edgert.serve.openai.chat_body import ChatBody
from edgert.serve.openai.completion import Completion
from edgert.serve.outgoing import Outgoing


class Chat:
    """The handler."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, body: ChatBody, out: Outgoing) -> None:
        async with self._desk.ask(body.question(), out.record) as answering:
            tokenizer = answering.model.tokenizer if body.logprobs else None
            completion = Completion(answering.served.name, tokenizer, tells_usage=body.tells_usage)
            if body.stream:
                await self._stream(answering, completion, out, tells_usage=body.tells_usage)
                return
            chunks = [chunk async for chunk in answering.chunks()]
            await out.json(completion.whole(chunks, join(chunks)))

    @staticmethod
    async def _stream(
        answering: Answering, completion: Completion, out: Outgoing, *, tells_usage: bool
    ) -> None:
        opened = False
        async with out.kept_alive():
            async for chunk in answering.chunks():
                if not opened:
                    await out.event(completion.opening())
                    opened = True
                for piece in completion.pieces(chunk):
                    await out.event(piece)
        if tells_usage and answering.record.timings:
            await out.event(completion.ending(answering.record.timings))
        await out.event("[DONE]")
