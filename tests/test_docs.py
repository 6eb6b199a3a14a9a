"""The pages: links lead somewhere, and README's tree is that of the repository."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("*/*.md"))]
PACKAGES = ("edgert", "export", "devices")


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```$|`[^`\n]+`", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def tree() -> set[str]:
    """Paths that README's tree names: folders end with a slash, and two spaces indent what is in them."""
    text = (ROOT / "README.md").read_text("utf-8")
    block = text.split("## Where things are")[1].split("```")[1]
    found, folders = set(), []
    for line in filter(str.strip, block.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        path = "".join(folders[:depth]) + name
        assert len(folders) >= depth, f"{name} lies in no folder"
        assert path not in found, f"{path} is there twice"
        found.add(path)
        if name.endswith("/"):
            folders[depth:] = [name]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        aim = (page.parent / name).resolve() if name else page
        assert aim.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(aim), f"{page.name} links to {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_rows_of_tables_have_as_many_cells_as_their_head(page: Path):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        rows = table.splitlines()
        cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
        assert set(cells) == {cells[0]}, f"{page.name}: the table that begins {rows[0]}"
        assert re.fullmatch(r"\|(?:-+\|)+", rows[1]), f"{page.name}: {rows[0]} has no line below it"


def test_what_the_tree_names_exists():
    for path in tree():
        assert (ROOT / path).exists(), path
        assert (ROOT / path).is_dir() == path.endswith("/"), path


def test_every_module_is_in_the_tree():
    """But an __init__.py that only says what its folder is: the folder's line does that."""
    named = tree()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            line_alone = path.name == "__init__.py" and len(path.read_text("utf-8").splitlines()) <= 5
            assert line_alone or path.relative_to(ROOT).as_posix() in named, path
