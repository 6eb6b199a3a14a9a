"""Rows: what the cache holds of conversations, read for sessions and filled from them."""

from __future__ import annotations

import warnings
from functools import partial

from edgert.answering.session import Form, Row, Session
from edgert.bundle import DATA, Bundle
from edgert.bundle.graph_io import KV_KINDS
from edgert.engine.engine import Engine
from edgert.engine.kv_pool import KVPool
from edgert.engine.runner import InPlaceRunner
from edgert.engine.worker import Worker
from edgert.errors import ConversationWarning


class Rows:
    """The rows of one model. `adapter`: the one that answers now."""

    def __init__(self, worker: Worker, bundle: Bundle, graph: str) -> None:
        self.adapter: str | None = None
        self._worker = worker
        self._model = bundle.manifest.model
        self._kv = bundle.manifest.graphs[graph].kv
        self._hashes = [bundle.manifest.files[name].sha256 for name in (DATA, graph)]

    def of(self, owner: object) -> Row | None:
        """What is held of an owner's last request; None if that is gone, or can't be read.

        For the thread that computes, or while nothing is computed.
        """
        engine = self._worker.engine
        slot, pool = (engine.slots.of(owner), _pool(engine)) if engine else (None, None)
        if slot is None or pool is None:
            return None
        return Row(self.form, [*slot.tokens], partial(pool.read, slot.row))

    @property
    def tokens(self) -> int:
        """How many all rows hold. For any thread; while something is computed, about so many."""
        engine = self._worker.engine
        return sum(map(len, engine.decoder.slots)) if engine else 0

    def fill(self, owner: object, session: Session) -> None:
        """Put a session's keys and values into a row of its owner's; where that can't be, say why.

        Also say whether it has lost its options, which nobody else would notice.
        """
        if session.how is None:
            lost = f"{session.folder}: the options of its answers are damaged: the usual ones hold"
            warnings.warn(lost, ConversationWarning, stacklevel=3)
        try:
            if not self._worker.do_while_idle(lambda engine: self._put(engine, owner, session)):
                raise ValueError("something is being answered")
        except ValueError as error:
            again = f"{session.folder}: {error}: its text is read again"
            warnings.warn(again, ConversationWarning, stacklevel=3)

    def _put(self, engine: Engine, owner: object, session: Session) -> None:
        pool, pieces = _pool(engine), session.keys_and_values(self.form)
        if pool is None:
            raise ValueError("this device's cache can't be filled")
        tokens = session.cache.tokens if session.cache else ()
        if len(tokens) > pool.capacity:
            raise ValueError(f"its {len(tokens)} tokens are more than the context of {pool.capacity}")
        slot = engine.slots.lease([], owner, fresh=True)
        if slot is None:
            raise ValueError("all rows of the cache are at work")
        for piece in pieces:
            pool.write(slot.row, len(slot), piece)
            slot.tokens += tokens[len(slot) : len(slot) + piece.shape[2]]
        engine.slots.release(slot)

    @property
    def form(self) -> Form:
        """Of the keys and values that are computed now."""
        return Form(
            of=" ".join([*self._hashes, self._kv, self.adapter or ""]).strip(),
            parts=2 * self._model.num_layers,
            heads=self._model.num_kv_heads,
            head_dim=self._model.head_dim,
            dtype=KV_KINDS[self._kv].stored_as,
        )


def _pool(engine: Engine) -> KVPool | None:
    """The memory of keys and values, where its rows can be read and written."""
    runner = engine.decoder.runner
    return runner.pool if isinstance(runner, InPlaceRunner) and runner.pool.joins else None
