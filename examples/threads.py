"""Ask one loaded model from several threads: python examples/threads.py [BUNDLE]

The answers advance together, a token each per step: all of them take much less time than one after another.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import edgert

QUESTIONS = (
    "Why is the sky blue?",
    "Why is grass green?",
    "Why is snow white?",
    "Why is the sea salty?",
)


def main() -> None:
    bundle = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
    with edgert.load(bundle) as model, ThreadPoolExecutor(len(QUESTIONS)) as pool:

        def ask(question: str) -> edgert.Reply:
            return model.generate(question, max_tokens=60)

        started = time.perf_counter()
        replies = list(pool.map(ask, QUESTIONS))
        seconds = time.perf_counter() - started
    for question, reply in zip(QUESTIONS, replies, strict=True):
        print(f"{question}\n  {reply.text}\n")
    tokens = sum(reply.timings.answer_tokens for reply in replies)
    print(f"{len(replies)} answers, {tokens} tokens in {seconds:.1f} s: {tokens / seconds:.0f} per second")


if __name__ == "__main__":
    main()
