"""Stream an answer and say how fast it came: python examples/stream.py [BUNDLE] [QUESTION]"""

import sys

import edgert


def main() -> None:
    bundle = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
    question = sys.argv[2] if len(sys.argv) > 2 else "Why is the sky blue?"
    with edgert.load(bundle) as model:
        stream = model.stream(question, max_tokens=120)
        for chunk in stream:
            print(chunk.text, end="", flush=True)
        timings = stream.reply.timings
    print(f"\n\nprompt: {timings.prompt_tokens} tokens at {timings.prefill_tokens_per_s:.0f} per second")
    print(f"answer: {timings.answer_tokens} tokens at {timings.decode_tokens_per_s:.0f} per second")
    print(f"first token after {timings.time_to_first_token_s:.2f} s")


if __name__ == "__main__":
    main()
