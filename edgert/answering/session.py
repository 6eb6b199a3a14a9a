"""Session: a conversation kept in a folder, so that another process goes on with it.

`session.json` is JSON in lines, each with a checksum of its own: the messages, which need nothing else; how
they were answered; the names of the pieces. A piece is a file beside it with keys and values, one for each
turn, so that a turn writes only what is new. Every file is written aside, flushed and renamed, pieces before
the text that names them: whenever a process dies, the last whole turn is there. Only its owner can read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import mmap
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgert.bundle.record import Between, Matching, read_record
from edgert.engine.slots import common_prefix
from edgert.errors import ConversationWarning, UsageError
from edgert.file_lock import file_lock
from edgert.saving import save_bytes, save_text
from edgert.text.template import Message, check_messages

TEXT = "session.json"
NOTHING: Mapping[str, Any] = MappingProxyType({})
LOCK = "lock"  # held while a turn is saved
FORMAT = 2  # 1 had everything in one line, with one checksum
PIECE = r"kv-\d+\.bin"
ASIDE = r"\.(session\.json|kv-\d+\.bin)\.\d+"  # what a process that died was writing

KeysAndValues: TypeAlias = npt.NDArray[np.generic]  # (2 · layers, KV heads, tokens, head_dim)


@dataclass(frozen=True)
class Form:
    """Of keys and values: `of`, which graph of which bundle made them, and what they are stored as."""

    of: str
    parts: int  # 2 · layers
    heads: int
    head_dim: int
    dtype: str

    def open(self, memory: mmap.mmap, tokens: int) -> KeysAndValues:
        """Raises ValueError for memory of another size."""
        return np.frombuffer(memory, self.dtype).reshape(self.parts, self.heads, tokens, self.head_dim)


@dataclass(frozen=True)
class Row:
    """What a row of the cache holds: its tokens, and `read`, their keys and values from one to another."""

    form: Form
    tokens: Sequence[int]
    read: Callable[[int, int], KeysAndValues]


@dataclass(frozen=True)
class Piece:
    """Keys and values of `tokens` tokens in a file of their own; the first `used` of them still hold."""

    file: Annotated[str, Matching(PIECE, "a piece of a session")]
    blake2b: str
    tokens: Annotated[int, Between(1, 1 << 31)]
    used: Annotated[int, Between(1, 1 << 31)]


@dataclass(frozen=True)
class Cache:
    """The tokens that the pieces hold together, and of which graph they are."""

    of: str = ""
    tokens: tuple[int, ...] = ()
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class How:
    """How messages were answered: the conversation's own `options`, as far as JSON holds them, and by the
    place of an answer among the messages those that it was made with.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def after(self, same: int, options: Mapping[str, Any], answer: int, its: Mapping[str, Any]) -> How:
        """Once the first `same` messages are left of the earlier ones, and one more is an answer."""
        kept = {place: made for place, made in self.answers.items() if place < same}
        return How(_plain(options), {**kept, answer: _plain(its)} if answer >= 0 else kept)

    def to_json(self) -> dict[str, Any]:
        """Read back by `_read_how`."""
        answers = [{"message": place, "options": made} for place, made in self.answers.items()]
        return {"options": self.options, "answers": answers}


@dataclass(frozen=True)
class New:
    """What is new in a row since it was last saved: `content`, behind the first `same` of its tokens."""

    of: str = ""
    tokens: tuple[int, ...] = ()
    same: int = 0
    content: bytes = b""


class Session:
    """One folder. It may not exist yet. Damaged messages are refused, and stay as they are. Without anything
    else that is damaged, the messages are there; what is on disk stays until a turn is saved whole.
    """

    def __init__(self, folder: Path) -> None:
        """Read what is there. Raises UsageError naming the file."""
        self.folder = folder
        self.messages: list[Message] = []
        self.how: How | None = How()  # None: damaged
        self.cache: Cache | None = Cache()  # None: damaged
        self._known = _content(folder / TEXT)
        if self._known is not None:
            self.messages, self.how, self.cache = _read(folder / TEXT, self._known)

    @property
    def current(self) -> bool:
        """Whether the text on disk is the one that was read or saved here."""
        return _content(self.folder / TEXT) == self._known

    def copied(self, row: Row | None) -> New:
        """What `save` needs of a row, which others may use after that. For the thread that computes."""
        if row is None:
            return New()
        known = self.cache if self.cache is not None and self.cache.of == row.form.of else Cache()
        same = common_prefix(known.tokens, row.tokens)
        content = np.ascontiguousarray(row.read(same, len(row.tokens))).tobytes()
        return New(row.form.of, tuple(row.tokens), same, content)

    @property
    def options(self) -> Mapping[str, Any]:
        """Those of the conversation; none if they are damaged."""
        return self.how.options if self.how else NOTHING

    def save(
        self,
        messages: Sequence[Message],
        new: New,
        options: Mapping[str, Any] = NOTHING,
        its: Mapping[str, Any] = NOTHING,
    ) -> None:
        """Keep the conversation as it stands, with what its row holds. For any thread.

        `options` are the conversation's own, `its` those of the last answer; what JSON can't hold, such as
        functions, is left out. Raises UsageError; also if another process has gone on with it since, whose
        turns stay.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with file_lock(self.folder / LOCK, self._tell_who_waits):
                self._save([*messages], new, self._answered(messages, options, its))
        except OSError as error:
            raise UsageError(f"can't keep the session in {self.folder}: {error}") from error

    def _answered(
        self, messages: Sequence[Message], options: Mapping[str, Any], its: Mapping[str, Any]
    ) -> How:
        pairs = zip(self.messages, messages, strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        return (self.how or How()).after(same, options, len(messages) - 1, its)

    def _save(self, messages: list[Message], new: New, how: How) -> None:
        if _content(self.folder / TEXT) not in (None, self._known):
            raise UsageError(
                f"another process has gone on with {self.folder}: this conversation is not saved over it"
            )
        cache = self._extended(new)
        lines = _line(messages=messages), _line(how=how.to_json()), _line(cache=asdict(cache))
        save_text(self.folder / TEXT, "".join(lines), private=True)
        self._known = _content(self.folder / TEXT)
        self.messages, self.how, self.cache = messages, how, cache
        self._sweep(cache)

    def _tell_who_waits(self) -> None:
        told = f"another process is saving {self.folder}: this turn is saved when that has ended"
        warnings.warn(told, ConversationWarning, stacklevel=2)

    def keys_and_values(self, form: Form) -> list[KeysAndValues]:
        """Those of `cache.tokens`, a piece after another, mapped from their files.

        Raises ValueError, in words for people, if they were made by another graph, or are damaged.
        """
        if self.cache is None:
            raise ValueError(f"what {TEXT} says of its keys and values is damaged")
        if self.cache.of != form.of:
            raise ValueError("its keys and values were made by another bundle, or another form of it")
        if sum(piece.used for piece in self.cache.pieces) != len(self.cache.tokens):
            raise ValueError("its keys and values are of other tokens")
        return [self._open(piece, form) for piece in self.cache.pieces]

    def _open(self, piece: Piece, form: Form) -> KeysAndValues:
        try:
            with (self.folder / piece.file).open("rb") as file:
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hashlib.blake2b(memory).hexdigest() != piece.blake2b:
                raise ValueError("another checksum")
            return form.open(memory, piece.tokens)[:, :, : piece.used]
        except (OSError, ValueError) as error:
            raise ValueError(f"{piece.file} is damaged ({error})") from error

    def _extended(self, new: New) -> Cache:
        """The pieces that still hold, and one more with what is new."""
        pieces = _first(self.cache.pieces if self.cache is not None else (), new.same)
        if more := len(new.tokens) - new.same:
            name = f"kv-{self._next()}.bin"
            save_bytes(self.folder / name, new.content, private=True)
            pieces.append(Piece(name, hashlib.blake2b(new.content).hexdigest(), more, more))
        return Cache(new.of, new.tokens, tuple(pieces))

    def _next(self) -> int:
        """A number that no piece has: one that is named must never be written over."""
        return 1 + max((int(path.stem.partition("-")[2]) for path in self._pieces()), default=0)

    def _pieces(self) -> list[Path]:
        return [path for path in self.folder.glob("kv-*.bin") if re.fullmatch(PIECE, path.name)]

    def _sweep(self, cache: Cache) -> None:
        """Remove pieces that nothing names any more, and what a process that died left half-written."""
        named = {piece.file for piece in cache.pieces}
        left = [path for path in self.folder.glob(".*") if re.fullmatch(ASIDE, path.name)]
        for path in [*self._pieces(), *left]:
            if path.name not in named:
                with contextlib.suppress(OSError):  # still mapped, on Windows: the next turn tries again
                    path.unlink()


def _read(path: Path, content: bytes) -> tuple[list[Message], How | None, Cache | None]:
    """The messages; how they were answered and the cache, None if damaged. Raises UsageError."""
    text = content.decode("utf-8", "replace")  # what is no UTF-8 has another checksum, too
    try:
        table, end = json.JSONDecoder().raw_decode(text)
        if table["format"] not in (1, FORMAT):
            raise ValueError(f"format {table['format']} instead of {FORMAT}: another edgert wrote it")
        checked = ("messages",) if table["format"] == FORMAT else ("messages", "cache")
        if _checksum({key: table[key] for key in checked}) != table["blake2b"]:
            raise ValueError("another checksum: it is damaged")
        if table["messages"]:
            check_messages(table["messages"])
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise UsageError(f"{path} can't be read ({error}); it stays as it is, choose another name") from error
    rest = {**table, "how": {}} if "cache" in checked else dict(_whole(text[end:]))
    return table["messages"], _read_how(rest.get("how")), _read_cache(rest.get("cache"))


def _read_how(table: dict[str, Any] | None) -> How | None:
    if table is None:
        return None
    answers = {made["message"]: _with_ids(made["options"]) for made in table.get("answers", ())}
    return How(_with_ids(table.get("options", {})), answers)


def _read_cache(table: object) -> Cache | None:
    try:
        return None if table is None else read_record(Cache, table)
    except (ValueError, TypeError, UsageError):
        return None


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that JSON holds, as it gives them back."""
    kept: dict[str, Any] = {}
    for name, value in options.items():
        with contextlib.suppress(TypeError, ValueError):
            if (held := json.loads(json.dumps(value))) is not None:
                kept[name] = held
    return _with_ids(kept)


def _with_ids(options: dict[str, Any]) -> dict[str, Any]:
    """JSON has texts as keys only, and `logit_bias` is by token ids."""
    if bias := options.get("logit_bias"):
        return {**options, "logit_bias": {int(token): value for token, value in bias.items()}}
    return options


def _whole(lines: str) -> Iterator[tuple[str, Any]]:
    """Names and values of the lines that are not damaged."""
    for line in lines.split("\n"):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            table = json.loads(line)
            checksum = table.pop("blake2b")
            table.pop("format")
            if _checksum(table) == checksum:
                yield from table.items()


def _line(**kept: object) -> str:
    # As it will be read: keys of tables are texts.
    kept = json.loads(json.dumps(kept))
    table = {"format": FORMAT, "blake2b": _checksum(kept), **kept}
    return json.dumps(table, ensure_ascii=False) + "\n"


def _content(path: Path) -> bytes | None:
    """None if nothing is there. Raises UsageError."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path} can't be read ({error})") from error


def _checksum(table: Mapping[str, object]) -> str:
    """Of the text that it becomes, with '?' for what Unicode can't encode, as `save_text` has it."""
    return hashlib.blake2b(json.dumps(table, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()


def _first(pieces: Sequence[Piece], tokens: int) -> list[Piece]:
    """Those that hold the first tokens, the last of them cut."""
    kept: list[Piece] = []
    for piece in pieces:
        used = min(piece.used, tokens - sum(earlier.used for earlier in kept))
        if used <= 0:
            break
        kept.append(replace(piece, used=used))
    return kept
