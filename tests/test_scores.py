"""Two ways of attending: both compute the same, a rule chooses, and one of them takes memory."""

import contextlib
import os
from dataclasses import replace

import numpy as np
import pytest

from edgert import devices, open_bundle
from edgert.engine import attention, memory
from edgert.engine.attention import VARIABLE
from edgert.engine.decoder import open_decoder
from edgert.engine.graph_session import GraphSession

PROMPT = (np.arange(200) * 7 % 300 + 5).tolist()
LAPTOP = replace(devices.load("laptop-cpu"), threads=2)


@pytest.fixture(scope="module")
def bundle(bundles):
    return open_bundle(bundles(quant="fp32"))


def opened(bundle, keep_scores):
    session = GraphSession(bundle, LAPTOP, keep_scores=keep_scores)
    return open_decoder(session, bundle.manifest.model, bundle.manifest.graphs[bundle.graph()], 256, 256)


def test_both_ways_compute_the_same_but_for_rounding(bundle, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    tiles, kept = (opened(bundle, keep).score(PROMPT) for keep in (False, True))
    assert VARIABLE not in os.environ
    assert np.abs(tiles - kept).max() < 1e-4
    assert (tiles != kept).any()  # the variable still means something


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("cut", [[100, 100], [2, 198], [33, 167], [64, 64, 72], [31, 40, 129]])
def test_a_prompt_is_read_alike_however_it_is_cut(bundle, cut, keep):
    decoder = opened(bundle, keep)
    whole, slot, begin, rows = decoder.score(PROMPT).copy(), decoder.afresh(), 0, []
    for size in cut:
        rows.append(decoder.extend(slot, PROMPT[begin : begin + size], size))
        begin += size
    assert (np.concatenate(rows) == whole).all()


def test_what_the_user_has_set_counts(monkeypatch):
    monkeypatch.setenv(VARIABLE, "0")
    with attention.chosen(keep_scores=True):
        assert os.environ[VARIABLE] == "0"
    monkeypatch.delenv(VARIABLE)
    with contextlib.suppress(ValueError), attention.chosen(keep_scores=True):
        assert os.environ[VARIABLE] == "1"
        raise ValueError("as a session that can't be made does")
    assert VARIABLE not in os.environ


def test_where_scores_are_kept(bundle):
    model = replace(bundle.manifest.model, num_heads=12)
    graph = bundle.manifest.graphs[bundle.graph()]

    def keeps(context=4096, architecture="x86_64", threads=4, kv="fp32"):
        profile, facts = replace(LAPTOP, threads=threads), replace(graph, kv=kv)
        return attention.keeps_scores(model, facts, profile, context, architecture)

    assert keeps()
    assert not keeps(context=8192) and not keeps(architecture="arm64")
    assert keeps(threads=12) and not keeps(threads=13) and not keeps(kv="int8")


def test_a_plan_counts_them(bundle):
    graph = bundle.manifest.graphs[bundle.graph()]
    here, elsewhere = (
        memory.plan(bundle.manifest, graph, profile, 256, machine=None)
        for profile in (LAPTOP, replace(LAPTOP, processor=("arm64",)))
    )
    assert here.scores == 4 * bundle.manifest.model.num_heads * LAPTOP.prefill_chunk * 256
    assert elsewhere.scores == 0
