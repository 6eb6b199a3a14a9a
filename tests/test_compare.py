"""Two bundles on the same prompts: where their answers part, how far apart they are, and the page."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

import edgert
from edgert.cli import main
from edgert.cli.compare import _lines
from edgert.compare import page as comparison_page
from edgert.compare.comparison import Answer, Choice, Comparison, Fork, Pair, Side
from edgert.compare.measure import compare
from edgert.export import ExportOptions, export

ASKED = ["the quick brown fox", [{"role": "user", "content": "one two three"}]]


@pytest.fixture(scope="module")
def fp32(bundles):
    return edgert.load(bundles(quant="fp32"))


@pytest.fixture(scope="module")
def found(model, fp32):
    return compare(model, fp32, ASKED, max_tokens=40)


def changed(bundle, folder, file, old, new):
    """A copy of a bundle with a text replaced by one of the same length, which keeps the manifest true."""
    shutil.copytree(bundle, folder)
    text = (folder / file).read_text("utf-8")
    assert old in text and len(old) == len(new)
    (folder / file).write_text(text.replace(old, new), "utf-8")
    return edgert.load(folder)


def probabilities(model, tokens):
    logits = model.logits(tokens).astype(np.float64)
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    return chances / chances.sum(-1, keepdims=True)


def test_a_bundle_equals_itself(model, bundles):
    found = compare(model, edgert.load(bundles()), ASKED, max_tokens=20)
    assert found.summary.identical == 2
    assert found.summary.mean_kl == 0 and found.summary.top1 == 1 and found.summary.mean_fork is None
    assert all(len(pair.kl) == len(pair.reference.token_ids) == 20 for pair in found.pairs)


def test_int8_and_fp32_part_where_their_tokens_first_differ(found, model, fp32):
    forks = [pair.fork for pair in found.pairs]
    assert any(forks)
    for pair, prompt in zip(found.pairs, ASKED, strict=True):
        assert pair.bundle.token_ids == model.generate(prompt, max_tokens=40, seed=1).token_ids
        assert pair.reference.token_ids == fp32.generate(prompt, max_tokens=40, seed=1).token_ids
        if pair.fork:
            both = np.array([pair.reference.token_ids, pair.bundle.token_ids])
            assert pair.fork.index == np.flatnonzero(both[0] != both[1])[0]
            assert (pair.fork.reference.token_id, pair.fork.bundle.token_id) == tuple(
                both[:, pair.fork.index]
            )
    assert found.summary.mean_fork == np.mean([fork.index for fork in forks if fork])


def test_how_sure_each_was(found, model, fp32):
    pair = next(pair for pair in found.pairs if pair.fork)
    fork = pair.fork
    tokens = [*fp32.tokens_of(pair.prompt), *pair.reference.token_ids[: fork.index]]
    theirs, ours = (probabilities(m, tokens)[-1] for m in (fp32, model))
    assert fork.reference.probability == pytest.approx(theirs[fork.reference.token_id], rel=1e-3)
    assert fork.alternative == pytest.approx(theirs[fork.bundle.token_id], rel=1e-3)
    assert fork.bundle.probability == pytest.approx(ours[fork.bundle.token_id], rel=0.1)  # rows round apart
    assert fork.reference.probability > fork.alternative


def test_kl_is_taken_along_the_reference_answer(found, model, fp32):
    pair = found.pairs[0]
    asked = fp32.tokens_of(pair.prompt)
    p, q = (probabilities(m, [*asked, *pair.reference.token_ids])[len(asked) - 1 : -1] for m in (fp32, model))
    assert pair.kl == pytest.approx((p * np.log(p / q)).sum(-1), rel=1e-3, abs=1e-6)
    assert pair.agrees == tuple(p.argmax(-1) == q.argmax(-1))
    assert pair.kl[pair.worst] == max(pair.kl) > pair.mean_kl > 0
    assert found.summary.mean_kl == pytest.approx(np.mean([kl for pair in found.pairs for kl in pair.kl]))


def test_comparisons_can_be_repeated(found, model, fp32):
    model.generate("something else entirely", max_tokens=5)
    assert compare(model, fp32, ASKED, max_tokens=40) == found


def test_pieces_are_the_answer(found):
    for answer in (a for pair in found.pairs for a in (pair.reference, pair.bundle)):
        assert "".join(answer.pieces) == answer.text
        assert len(answer.pieces) == len(answer.probabilities) == len(answer.token_ids) == 40


def test_an_end_is_a_choice_like_any_other(fp32, tmp_path):
    """The same weights, but one takes a token of the answer for its end."""
    said = fp32.generate(ASKED[0], max_tokens=12).token_ids
    end = next(token for i, token in enumerate(said) if i >= 4 and token not in said[:i])
    checkpoint = tiny.write(tmp_path / "c", tiny.Tiny(generation={"eos_token_id": end}))
    export(checkpoint, tmp_path / "b", ExportOptions(quant="fp32"))
    stopping = edgert.load(tmp_path / "b")
    (pair,) = compare(fp32, stopping, ASKED[:1], max_tokens=12).pairs
    assert pair.fork.index == said.index(end) == len(pair.reference.token_ids)
    assert (pair.fork.reference.token_id, pair.fork.bundle.token_id) == (None, end)
    row = probabilities(fp32, [*fp32.tokens_of(ASKED[0]), *pair.reference.token_ids])[-1]
    ends = stopping.bundle.manifest.generation.eos_token_ids
    assert pair.fork.reference.probability == pytest.approx(row[list(ends)].sum(), rel=1e-3)
    assert pair.fork.alternative == pytest.approx(row[end], rel=1e-3)
    assert len(pair.kl) == pair.fork.index + 1 and max(pair.kl) == 0
    (reverse,) = compare(stopping, fp32, ASKED[:1], max_tokens=12).pairs
    assert (reverse.fork.reference.token_id, reverse.fork.bundle.token_id) == (end, None)
    assert len(reverse.kl) == 12 and reverse.cut


def test_each_has_its_own_chat_template(model, bundles, tmp_path):
    other = changed(bundles(), tmp_path / "b", "chat_template.jinja", "<|assistant|>", "Assistant is:")
    found = compare(model, other, ASKED, max_tokens=8)
    assert found.summary.other_prompts == 2
    assert found.pairs[0].reference.token_ids == other.generate(ASKED[0], max_tokens=8, seed=0).token_ids
    assert found.summary.mean_kl > 0


def test_thinking_opened_by_the_template_has_to_close(model, bundles, tmp_path):
    thinker = changed(bundles(), tmp_path / "b", "chat_template.jinja", "<|assistant|>", "Right:<think>")
    found = compare(thinker, model, ASKED[:1], max_tokens=8)
    assert found.pairs[0].bundle.final is None and found.pairs[0].reference.final is not None
    assert "cut off while still thinking</h3>" in comparison_page.render(found)


def test_progress_counts_prompts(model):
    seen = []
    compare(model, model, ASKED, max_tokens=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_vocabularies_must_be_the_same(model, bundles, tmp_path):
    renamed = changed(bundles(), tmp_path / "b", "tokenizer.json", "<|user|>", "<|uses|>")
    with pytest.raises(edgert.UsageError, match="different vocabularies"):
        compare(model, renamed, ASKED)
    export(
        tiny.write(tmp_path / "c", tiny.Tiny(overrides={"vocab_size": 384})),
        tmp_path / "wide",
        ExportOptions(verify=False),
    )
    with pytest.raises(edgert.UsageError, match="320 and 384"):
        compare(model, edgert.load(tmp_path / "wide"), ASKED)


def test_a_prompt_that_does_not_fit_is_named(model):
    with pytest.raises(edgert.PromptTooLong, match=r"prompt 2 \('fox fox.* the context holds 256"):
        compare(model, model, ["fox", "fox " * 400])
    with pytest.raises(edgert.UsageError, match="no prompts"):
        compare(model, model, [])


def test_answers_stop_where_either_context_is_full(model, bundles):
    short = edgert.load(bundles(), context=len(model.tokens_of(ASKED[0])) + 6)
    (pair,) = compare(model, short, ASKED[:1]).pairs
    assert len(pair.reference.token_ids) == len(pair.bundle.token_ids) == 6


# The page


class Page(HTMLParser):
    """What a browser would see: tags opened, text, marked text; complains about what is left open."""

    VOID = ("meta", "link", "img")

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text, self.marked = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not {"src", "href", "onload", "onclick"} & dict(attrs).keys()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.marked if self.open[-1:] == ["mark"] else self.text).append(data)


def answer(*pieces, final="x"):
    return Answer("".join(pieces), tuple(range(len(pieces))), pieces, (0.5,) * len(pieces), "stop", final)


def hostile():
    """A comparison whose every text is an attack."""
    bad = "<script>alert(1)</script>"
    fork = Fork(1, bundle=Choice(9, "</p>", 0.4), reference=Choice(1, bad, 0.5), alternative=0.3)
    ours, theirs = answer("a ", "</p>"), answer("a ", bad, "&amp;")
    pair = Pair(bad, True, ours, theirs, fork, kl=(0.1, 0.4, 0.0, 0.2), agrees=(True,) * 4)
    side = Side(bad, f"x/{bad}", "int8", 10**6)
    return Comparison(side, side, 64, (pair,))


def test_the_page_escapes_what_models_and_people_write():
    page = Page(comparison_page.render(hostile()))
    assert "script" not in page.tags
    assert page.marked == ["</p>", "<script>alert(1)</script>"]
    assert "".join(page.text).count("<script>alert(1)</script>") >= 3  # title, prompt, fork
    assert "&amp;" in page.text


def test_the_page_needs_nothing_else():
    html = comparison_page.render(hostile())
    assert "http:" not in html and "https:" not in html and "url(" not in html and "@import" not in html


def test_the_page_draws_a_bar_a_token(found):
    page = Page(comparison_page.render(found))
    assert page.tags.count("rect") == sum(len(pair.kl) for pair in found.pairs)
    (pair,), scale = hostile().pairs, comparison_page.scale(hostile())
    assert [bar.token for bar in comparison_page.bars(pair, scale)][-1] == "the end"


def test_all_charts_have_one_scale():
    """The largest KL of all is the full height, the longest answer the full width."""
    (pair,) = hostile().pairs
    short = replace(pair, kl=(0.2, 0.1), agrees=(True, False))
    both = replace(hostile(), pairs=(pair, short))
    scale = comparison_page.scale(both)
    assert scale == comparison_page.Scale(0.4, 4)
    assert [bar.height for bar in comparison_page.bars(pair, scale)] == [25, 100, 0, 50]
    assert [bar.height for bar in comparison_page.bars(short, scale)] == [50, 25]
    html = comparison_page.render(both)
    assert "width: min(28px, 100.00%)" in html and "width: min(14px, 50.00%)" in html
    assert "the full height is 0.4000 nats" in html


def finals(*answers):
    """A comparison of answers, the bundle's and the reference's in turn: how each ended, and its final."""
    (pair,) = hostile().pairs
    sides = [replace(answer("x", final=final), finish_reason=end) for end, final in answers]
    pairs = [replace(pair, bundle=a, reference=b) for a, b in zip(sides[::2], sides[1::2], strict=True)]
    return replace(hostile(), pairs=tuple(pairs))


def test_final_answers_that_were_cut_off_are_undecided():
    found = finals(
        *[("stop", "5"), ("stop", "5")],
        *[("stop", "5"), ("stop", "6")],
        *[("length", "5"), ("stop", "5")],
        *[("stop", "5"), ("length", None)],
        *[("length", "5"), ("length", "5")],
        *[("stop", None), ("stop", "5")],
    )
    assert [pair.finals for pair in found.pairs] == ["equal", "different", *["undecided"] * 3, "missing"]
    counts = {"equal_finals": 1, "different_finals": 1, "undecided_finals": 3, "missing_finals": 1, "cut": 3}
    table = found.table()
    assert counts.items() <= table["summary"].items()
    assert [row["finals"] for row in table["pairs"]] == [pair.finals for pair in found.pairs]
    page = comparison_page.render(found)
    counted = "1 of 6, 1 different, 3 undecided (cut off), 1 missing (ended while thinking)"
    assert f"<dt>equal final answers</dt><dd>{counted}</dd>" in page
    assert (
        page.count("Final answers are undecided: cut off.") == 3 and page.count("Final answers differ.") == 1
    )
    assert f"\nequal final answers  {counted}\n" in "\n".join(_lines(found))


def test_the_bundle_comes_before_the_reference_everywhere():
    names = replace(hostile(), bundle=Side("B", "bb", "int8", 1), reference=Side("R", "rr", "fp32", 1))
    html, screen = comparison_page.render(names), "\n".join(_lines(names))
    table = names.table()
    assert "<title>B against R</title>" in html and re.search("<h1>bb .* against rr ", html)
    assert re.search("<h3>Bundle.*<h3>Reference.*: bundle .*, reference ", html, re.DOTALL)
    assert re.search("bb .*against rr .*: bundle .*, reference ", screen, re.DOTALL)
    for place in (table, table["pairs"][0], table["pairs"][0]["fork"]):
        assert [key for key in place if key in ("bundle", "reference")] == ["bundle", "reference"]


def test_the_page_of_identical_answers_has_no_mark(model):
    page = Page(comparison_page.render(compare(model, model, ASKED, max_tokens=5)))
    assert page.marked == [] and "mark" not in page.tags


def test_a_mark_reaches_to_the_end_of_a_character():
    emoji = comparison_page.parts(answer("so ", "", "", "😀", "!"), 1)
    assert (emoji.before, emoji.mark, emoji.after) == ("so ", "😀", "!")
    ended = comparison_page.parts(answer("so"), 1)
    assert (ended.before, ended.mark, ended.after) == ("so", "", "")


# The command


def run(*arguments, input=None):
    return CliRunner().invoke(main, ["compare", *map(str, arguments)], input=input)


def test_the_screen(bundles, found, tmp_path):
    asked, page = tmp_path / "asked.txt", tmp_path / "page.html"
    asked.write_text(ASKED[0] + "\none two three\n", "utf-8")
    pair_of = bundles(), bundles(quant="fp32")
    result = run(*pair_of, "--prompts", asked, "--max-tokens", 40, "--page", page)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    fork, summary = next(pair.fork for pair in found.pairs if pair.fork), found.summary
    assert "  1  the quick brown fox\n" in result.stdout
    assert f"parts after {fork.index} equal tokens: bundle {fork.bundle} " in result.stdout
    assert f"identical answers    {summary.identical} of 2\n" in result.stdout
    assert f"mean KL              {summary.mean_kl:.4f} nats per token\n" in result.stdout
    assert f"top-1 agreement      {summary.top1:.1%}\n" in result.stdout
    assert "prompts              2, 2 cut off" in result.stdout
    assert result.stdout.endswith(f"side by side         {page}\n")
    assert "the quick brown fox" in page.read_text("utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"asked.txt", "page.html"}


def test_json_holds_everything(bundles, found):
    lines = '{"prompt": "the quick brown fox"}\n' + json.dumps({"messages": ASKED[1]})
    result = run(
        bundles(), bundles(quant="fp32"), "--prompts", "-", "--max-tokens", 40, "--json", input=lines
    )
    table = json.loads(result.stdout)
    assert table == json.loads(json.dumps(found.table()))
    assert table["summary"]["prompts"] == 2 and table["pairs"][0]["identical"] == found.pairs[0].identical
    assert table["pairs"][1]["kl"] == list(found.pairs[1].kl)


def test_a_dozen_questions_are_built_in(bundles):
    result = run(bundles(), bundles(), "--max-tokens", 1)
    assert (
        "identical answers    12 of 12\nequal final answers  0 of 12, 12 undecided (cut off)\nmean KL "
        in result.stdout
    )
    assert result.stdout.endswith("side by side         with --page FILE.html\n")


def test_the_screen_says_that_templates_differ(bundles, tmp_path):
    changed(bundles(), tmp_path / "b", "chat_template.jinja", "<|assistant|>", "Right:<think>")
    screen = run(tmp_path / "b", bundles(), "--prompts", "-", "--max-tokens", 4, input="fox").stdout
    assert "; final answers are undecided: cut off\n" in screen
    assert "chat templates       differ: other tokens for 1 of 1 prompts\n" in screen


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prompts", "nowhere.txt"], 1, "nowhere.txt: No such file"),
        (["--prompts", "empty.txt"], 2, "empty.txt: no prompts in it"),
        (["--prompts", "latin.txt"], 2, "latin.txt: not UTF-8 text"),
        (["--page", "nowhere/page.html"], 2, "can't save to nowhere/page.html: there is no folder nowhere"),
        (["--context", "4"], 8, "prompt 1 ('What is the capital of France? Answer in"),
    ],
)
def test_errors_are_one_line(bundles, arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n", "utf-8")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    result = run(bundles(), bundles(), *arguments)
    assert (result.exit_code, result.stderr.count("\n"), result.stdout) == (code, 1, "")
    assert result.stderr.startswith("edgert: ") and message in result.stderr


def test_unencodable_answers_are_saved_all_the_same(tmp_path):
    pair = replace(hostile().pairs[0], prompt="lone \ud800")
    comparison_page.save(replace(hostile(), pairs=(pair,)), tmp_path / "page.html")
    assert "lone ?" in (tmp_path / "page.html").read_text("utf-8")
