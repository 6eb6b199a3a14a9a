"""One model, many answers at once: each is the one it gets alone, and stops when it is told to."""

import asyncio
import gc
import itertools
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import edgert
from edgert.answering.answer import MOST_UNREAD
from edgert.engine.chunks import SHARED, Chunks
from edgert.engine.decoder import STRIDE, chunk_sizes
from edgert.engine.worker import Worker

QUESTIONS = ["fox", "the lazy dog", "quick", "brown fox jumps", "over", "the", "jumps", "lazy"]


@pytest.fixture
def own(bundles):
    """A model for one test, with nothing running in it."""
    with edgert.load(bundles(), context=256) as model:
        yield model


@pytest.fixture
def counted(own, monkeypatch):
    """The model, and the sizes of the runs that it computes: (rows, tokens)."""
    runs, run = [], own._worker.engine.decoder.runner._session.run

    def note(binding, stop=None):
        runs.append(binding._alive["input_ids"].shape())
        run(binding, stop)

    monkeypatch.setattr(own._worker.engine.decoder.runner._session, "run", note)
    return own, runs


def answers(model, **options):
    return [model.generate(q, max_tokens=24, logprobs=2, fresh=True, **options).tokens for q in QUESTIONS]


def test_eight_threads_get_what_each_gets_alone(own):
    alone = answers(own)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            replies = pool.map(lambda q: own.generate(q, max_tokens=24, logprobs=2), QUESTIONS)
            assert [reply.tokens for reply in replies] == alone


def test_eight_tasks_get_what_each_gets_alone(own):
    alone = answers(own)

    async def everybody():
        return await asyncio.gather(*(own.agenerate(q, max_tokens=24, logprobs=2) for q in QUESTIONS))

    assert [reply.tokens for reply in asyncio.run(everybody())] == alone


def test_sampled_answers_too(own):
    settings = {"temperature": 1.2, "top_p": 0.9, "frequency_penalty": 0.2, "seed": 5}
    alone = answers(own, **settings)
    with ThreadPoolExecutor(8) as pool:
        replies = pool.map(lambda q: own.generate(q, max_tokens=24, logprobs=2, **settings), QUESTIONS)
        assert [reply.tokens for reply in replies] == alone


def test_no_chunk_leaves_a_token_alone():
    for count in range(2, 400):
        for chunk in (7, 13, SHARED, 256):
            sizes = list(chunk_sizes(count, chunk))
            assert sum(sizes) == count and max(sizes) <= chunk
            assert all(size > 1 and size % STRIDE != 1 for size in sizes), (count, chunk, sizes)


@pytest.mark.parametrize("count", [33, 65, 97, 129, 161])
def test_a_prompt_is_read_alike_however_it_is_cut(own, count):
    """Kernels leave a rest at these lengths: in one run, in chunks beside others, after a cached prefix."""
    prompt = (np.arange(count) * 7 % 300 + 5).tolist()
    alone = own.generate(prompt, max_tokens=3, logprobs=3, fresh=True).tokens
    scores = own.logits(prompt)
    for held in (2, 31, 32, 33, 63, count - 1):
        own.generate([*prompt[:held], 9], max_tokens=1, fresh=True)
        assert own.generate(prompt, max_tokens=3, logprobs=3).tokens == alone, held
    talking = own.stream("fox", max_tokens=200)
    next(talking)
    assert own.generate(prompt, max_tokens=3, logprobs=3, fresh=True).tokens == alone
    assert (own.logits(prompt) == scores).all()
    talking.close()


def test_those_who_answer_share_their_steps(counted):
    model, runs = counted
    streams = [model.stream(q, max_tokens=20) for q in QUESTIONS]
    for stream in streams:
        list(stream)
    assert max(rows for rows, tokens in runs if tokens == 1) >= 6


def test_a_long_prompt_is_read_between_the_steps_of_others(counted):
    model, runs = counted
    talking = model.stream("fox", max_tokens=200)
    next(talking)
    long = model.stream(np.arange(200) % 100 + 5, max_tokens=1)
    list(long)
    chunks = [i for i, (_, tokens) in enumerate(runs) if tokens > 1 and i > 1]
    assert all(runs[i][1] <= SHARED for i in chunks) and len(chunks) >= 3
    assert all(later - earlier >= 2 for earlier, later in itertools.pairwise(chunks))
    talking.close()


def test_chunks_are_shorter_on_a_slow_machine_that_is_shared():
    now = [0.0]
    chunks = Chunks(512, lambda: now[0])
    assert chunks.length(shared=True) == SHARED
    chunks.note(512, 10.0)
    chunks.note(9, 0.001)  # too short to tell
    assert chunks.length(shared=False) == 512  # nobody else has come yet
    chunks.meet()
    assert chunks.length(shared=False) == 102  # two seconds long
    now[0] = 700.0
    assert chunks.length(shared=False) == 512
    chunks.meet()
    for _ in range(5):
        chunks.note(512, 0.5)
    assert chunks.length(shared=False) == 512
    assert Chunks(48, lambda: 0.0).length(shared=True) == 48


def test_more_requests_than_rows_wait_for_their_turn(bundles):
    with edgert.load(bundles(), conversations=2) as model, ThreadPoolExecutor(6) as pool:
        alone = [model.generate(q, max_tokens=9).token_ids for q in QUESTIONS]
        replies = list(pool.map(lambda q: model.generate(q, max_tokens=9), QUESTIONS))
        assert [reply.token_ids for reply in replies] == alone
        assert max(reply.timings.queued_s for reply in replies) > 0


def test_scoring_disturbs_nobody(own):
    expected = own.generate("fox", max_tokens=40, logprobs=2).tokens
    alone = own.logits(range(5, 90))
    stream = own.stream("fox", max_tokens=40, logprobs=2, fresh=True)
    next(stream)
    assert (own.logits(range(5, 90)) == alone).all()
    assert stream.reply.tokens == expected


def test_a_stopped_stream_tells_so_and_keeps_what_it_has(own):
    stream = own.stream("fox", max_tokens=200)
    begun = [next(stream), next(stream)]
    threading.Thread(target=stream.stop).start()
    reply = stream.reply
    assert reply.finish_reason == "cancelled" and 2 <= len(reply.tokens) < 200
    assert reply.tokens[:2] == tuple(chunk.token for chunk in begun)
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("leave", ["stop", "close", "drop", "with"])
def test_leaving_costs_one_more_step_at_most(counted, leave):
    model, runs = counted
    stream = model.stream("fox", max_tokens=200)
    for _ in range(3):
        next(stream)
    if leave == "with":
        with stream:
            next(stream)
    elif leave == "drop":
        del stream
        gc.collect()
    else:
        getattr(stream, leave)()
    computed = len(runs)
    model.generate("dog", max_tokens=1)  # begins after whatever is still running
    assert len(runs) - computed <= 2  # at most one step of the stream, and the prompt's own


def test_a_prefill_is_stopped_at_once(counted):
    model, runs = counted
    release = threading.Event()
    run = model._worker.engine.decoder.runner._session.run

    def slow(binding, stop=None):
        release.wait(5)
        run(binding, stop)

    model._worker.engine.decoder.runner._session.run = slow
    stream = model.stream(np.arange(250) % 100 + 5)
    time.sleep(0.05)
    stream.stop()
    release.set()
    assert stream.reply.finish_reason == "cancelled" and not stream.reply.tokens
    assert len(runs) <= 1


def test_a_cancelled_task_stops_its_answer(counted):
    model, runs = counted

    async def listen():
        async for _ in model.astream("fox", max_tokens=200):
            pass

    async def impatient():
        task = asyncio.create_task(listen())
        while len(runs) < 4:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(runs)

    computed = asyncio.run(impatient())
    model.generate("dog", max_tokens=1)
    assert len(runs) - computed <= 2


def test_leaving_an_async_loop_stops_its_answer(counted):
    model, runs = counted

    async def leave():
        async for chunk in model.astream("fox", max_tokens=200):
            if chunk.timings.answer_tokens == 3:
                break
        gc.collect()
        return len(runs)

    computed = asyncio.run(leave())
    model.generate("dog", max_tokens=1)
    assert len(runs) - computed <= 2


def test_the_loop_is_never_blocked(own):
    async def tick():
        ticks, stream = 0, own.astream("fox", max_tokens=100)
        task = asyncio.create_task(stream.reply())
        while not task.done():
            await asyncio.sleep(0)
            ticks += 1
        return ticks

    assert asyncio.run(tick()) > 100


def test_a_reader_that_pauses_pauses_the_work(counted):
    model, runs = counted
    stream = model.stream("fox", max_tokens=200)
    next(stream)
    deadline = time.monotonic() + 20
    while len(runs) < MOST_UNREAD and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(runs) <= MOST_UNREAD + 2
    other = model.generate("dog", max_tokens=50)  # others go on meanwhile
    assert len(other.tokens) == 50
    assert len(stream.reply.tokens) == 200


def test_an_error_reaches_the_one_who_reads(own, monkeypatch):
    def broken(self, *given):
        raise edgert.DeviceError("the device has gone")

    with monkeypatch.context() as patch:
        patch.setattr(type(own._worker.engine.decoder), "decode", broken)
        stream = own.stream("fox", max_tokens=5)
        next(stream)
        for _ in range(2):
            with pytest.raises(edgert.DeviceError, match="the device has gone"):
                assert stream.reply
    assert len(own.generate("fox", max_tokens=5).tokens) == 5


def test_a_closed_model_ends_its_answers_and_begins_none(bundles):
    model = edgert.load(bundles())
    stream = model.stream("fox", max_tokens=200)
    next(stream)
    model.close()
    assert stream.reply.finish_reason == "cancelled"
    for call in (model.stream, model.generate, model.logits):
        with pytest.raises(edgert.UsageError, match="the model is closed"):
            call([5, 6])
    model.close()
    assert "closed" in repr(model)


def test_models_and_streams_tell_what_they_are(own):
    assert repr(own) == (
        f"<edgert.Model llama-int8: int8, {own.profile.name}, context 256, 8 conversations at once>"
    )
    stream = own.stream("fox", max_tokens=1)
    list(stream)
    assert repr(stream) == "<Stream: 2 chunks read, finished>"


def test_whoever_waits_for_a_row_ends_the_pause_of_a_slow_reader(bundles):
    """Inside a loop over one answer another is asked for, with room for one only."""
    with edgert.load(bundles(), context=256, conversations=1) as model:
        stream = model.stream("fox", max_tokens=150)
        next(stream)
        assert len(model.generate("dog", max_tokens=5).tokens) == 5
        assert len(stream.reply.tokens) == 150


def test_waiting_for_a_row_takes_no_time_of_the_processor(bundles):
    with edgert.load(bundles(), context=256, conversations=1) as model:
        stream = model.stream("fox", max_tokens=200)
        next(stream)
        time.sleep(0.3)  # paused by now
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.25
        stream.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_interrupt_while_a_request_is_made_leaves_nothing(bundles, monkeypatch, after):
    submit = Worker.submit

    def interrupted(self, sequence):
        if after:
            submit(self, sequence)
        raise KeyboardInterrupt

    with edgert.load(bundles(), context=256, conversations=1) as model:
        chat = model.conversation(max_tokens=5)
        with monkeypatch.context() as patch:
            patch.setattr(Worker, "submit", interrupted)
            for ask in (model.stream, model.generate, chat.send):
                with pytest.raises(KeyboardInterrupt):
                    ask("fox", max_tokens=200)
            with pytest.raises(KeyboardInterrupt):
                model.logits([5, 6])
        gc.collect()
        assert len(chat.send("dog").reply.tokens) == 5
        assert [turn["role"] for turn in chat.turns] == ["user", "assistant"]


def test_an_interrupt_while_reading_stops_the_answer_and_loses_nothing(own, monkeypatch):
    import edgert.answering.stream as reading

    def interrupted(woken):
        raise KeyboardInterrupt

    chat = own.conversation()
    stream = chat.send("fox", max_tokens=200)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(stream)
    reply = stream.reply
    assert reply.finish_reason == "cancelled" and len(reply.tokens) < 200
    stream.close()
    assert len(chat.send("dog", max_tokens=3).reply.tokens) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_consumer_that_fails_at_the_end_takes_nobody_with_it(own):
    def fails(text):
        raise ZeroDivisionError

    stream = own.open_stream("fox", own.request(max_tokens=3), None, fails)
    assert len(stream.reply.tokens) == 3
    wait_until_idle()
    assert len(own.generate("dog", max_tokens=3).tokens) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_to_load_its_own(own):
    own.generate("fox", max_tokens=2)
    child = os.fork()
    if not child:
        try:
            own.generate("fox", max_tokens=2)
        except edgert.UsageError as error:
            os._exit(7 if "forked child" in str(error) else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_stream_that_outlives_its_loop_gives_the_row_back(bundles):
    with edgert.load(bundles(), context=256, conversations=1) as model:

        async def begin():
            stream = model.astream("fox", max_tokens=200)
            await anext(stream)
            return stream

        kept = asyncio.run(begin())
        assert len(model.generate("dog", max_tokens=3).tokens) == 3
        assert not kept.finished


def test_a_closed_model_lets_go_of_everything(bundles):
    with edgert.load(bundles()) as model:
        stream = model.stream("fox", max_tokens=5)
        assert stream.reply
        gone = weakref.ref(model._worker.engine.decoder.runner)
    gc.collect()
    assert gone() is None and stream.reply


def wait_until_idle():
    deadline = time.monotonic() + 10
    while any(thread.name == "edgert" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_thread_is_left_when_nothing_is_asked(own):
    own.generate("fox", max_tokens=2)
    wait_until_idle()


def test_forgotten_models_give_their_memory_back(bundles):
    model = edgert.load(bundles())
    model.generate("fox", max_tokens=2)
    gone = weakref.ref(model._worker.engine)
    del model
    deadline = time.monotonic() + 10
    while gone() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert gone() is None
