"""Text to train on: Python's library, installed packages, and English manuals that apt brings on Debian."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from hashlib import blake2b
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from pydoc_data.topics import topics
from random import Random

import click
from prose import prose

# Free English prose of Debian's main archive. Not python3-doc: it contains the held-out text.
PACKAGES = """
anarchism apache2-doc aptitude-doc-en debian-faq debian-handbook debian-policy debian-reference-en
developers-reference dict-foldoc dict-jargon fortunes git-doc perl-doc postgresql-doc-15 python-django-doc
sqlite3-doc
"""
SHARE = 4_000_000  # characters of one source at most, lest one of them be the corpus
BLOCKS = set("p div li dt dd h1 h2 h3 h4 h5 h6 pre tr table ul ol dl section blockquote br".split())  # noqa: SIM905
SKIPPED = {"script", "style", "head", "nav", "footer"}
SPHINX = {"_sources", "_modules"}  # a manual's markup and the program's code, beside the pages


def write_corpus(path: Path) -> None:
    """Documents as a JSON list: no paragraph twice, none that quotes the held-out text."""
    seen: set[bytes] = set()
    held, documents = _shingles(prose()), []
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, texts in _sources(path.parent):
        size = 0
        for text in texts:
            fresh = []
            for paragraph in re.split(r"\n\s*\n", text):
                key = blake2b(" ".join(paragraph.split()).encode(), digest_size=8).digest()
                if key not in seen and not (_shingles(paragraph) & held):
                    seen.add(key)
                    fresh.append(paragraph.rstrip())
            if len(document := "\n\n".join(fresh).strip()) > 100:
                documents.append(document)
                size += len(document)
            if size > SHARE:
                break
        click.echo(f"{name:20} {size / 1e6:6.2f} MB")
    Random(0).shuffle(documents)
    (aside := path.with_suffix(".partial")).write_text(json.dumps(documents), "utf-8")
    aside.replace(path)


class _Html(HTMLParser):
    """The text of a page, a blank line between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.out: list[str] = []
        self._skipping = self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._step(tag, 1)

    def handle_endtag(self, tag: str) -> None:
        self._step(tag, -1)

    def _step(self, tag: str, by: int) -> None:
        if tag in SKIPPED:
            self._skipping = max(0, self._skipping + by)
        if tag == "pre":
            self._pre = max(0, self._pre + by)
        if tag in BLOCKS:
            self.out.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.out.append(data if self._pre else re.sub(r"\s+", " ", data))


def _html(page: str) -> str:
    parser = _Html()
    parser.feed(page)
    return re.sub(r"[ \t]*\n\s*\n\s*", "\n\n", "".join(parser.out))


def _debian(package: str, folder: Path) -> Iterator[str]:
    """The English pages of a Debian package, which apt fetches."""
    found = sorted(folder.glob(f"{package}_*.deb"))
    if not found and shutil.which("apt-get"):
        command = ["apt-get", "-qq", "download", package]
        subprocess.run(command, cwd=folder, check=False, stderr=subprocess.DEVNULL)
        found = sorted(folder.glob(f"{package}_*.deb"))
    if not found:
        click.echo(f"{package}: apt has none, trained without it", err=True)
        return
    command = ["dpkg-deb", "--fsys-tarfile", str(found[0])]
    with tempfile.TemporaryFile() as unpacked:
        subprocess.run(command, stdout=unpacked, check=True)
        unpacked.seek(0)
        with tarfile.open(fileobj=unpacked) as archive:
            members = [member for member in archive if member.isfile()]
            Random(0).shuffle(members)  # the share of a long package is not its first chapters
            for member in members:
                content = archive.extractfile(member)
                if content is not None and (text := _page(PurePosixPath(member.name), content.read())):
                    yield text


def _page(path: PurePosixPath, content: bytes) -> str:
    """A packaged file's text; empty for what is no English prose."""
    name = path.name
    if name.startswith(("changelog", "copyright", "genindex", "search")) or SPHINX & set(path.parts):
        return ""
    if name.endswith((".gz", ".dz")):
        content, name = gzip.decompress(content), name[:-3]
    text = content.decode("utf-8", "replace")
    if name.endswith((".html", ".htm", ".html.en")):
        translated = re.search(r"/[a-z]{2}-[A-Z]{2}/|/[a-z]{2}/|\.[a-z]{2}\.html$", str(path))
        return "" if translated and "en" not in translated[0] else _html(text)
    if name.endswith((".txt", ".pod", ".dict")) or ("fortunes" in path.parts and "." not in name):
        return text
    return ""


def _sources(debs: Path) -> Iterator[tuple[str, Iterator[str]]]:
    """Every source of text by name."""
    kept = (text for name, text in sorted(topics.items()) if text not in prose())
    yield "topics", kept
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    skipped = {"pydoc_data", "site-packages", "test", "tests", "idle_test", "lib2to3", "encodings"}
    code = [path for path in sorted(library.rglob("*.py")) if not skipped & set(path.parts)]
    yield "library", _read(code)
    words = ("METADATA", "*.md", "*.rst", "README*")
    yield "packages", _read(sorted({path for word in words for path in packages.rglob(word)}))
    yield "docstrings", _docstrings(sorted(packages.rglob("*.py")))
    for package in PACKAGES.split():
        yield package, _debian(package, debs)


def _read(paths: list[Path]) -> Iterator[str]:
    Random(0).shuffle(paths)
    for path in paths:
        if path.is_file():
            yield path.read_text("utf-8", "replace")


def _docstrings(paths: list[Path]) -> Iterator[str]:
    """The docstrings of modules, one text each."""
    for text in _read(paths):
        found = re.findall(r'"""(.{80,}?)"""', text, re.DOTALL)
        yield "\n\n".join(re.sub(r"\n {4,}", "\n", doc.strip()) for doc in found)


def _shingles(text: str, size: int = 12) -> set[str]:
    """Runs of twelve words: text that shares one was copied."""
    words = re.findall(r"\w+", text)
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}
