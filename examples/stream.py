"""Stream an answer and say how fast it came: python examples/stream.py [BUNDLE] [QUESTION]"""

import sys

import edgert
from edgert.home import DEFAULT_MODEL, bundle_folder


def main() -> None:
    bundle = sys.argv[1] if len(sys.argv) > 1 else bundle_folder(DEFAULT_MODEL)
    question = sys.argv[2] if len(sys.argv) > 2 else "Why is the sky blue?"
    model = edgert.load(bundle)
    for chunk in model.stream(question, max_tokens=120):
        print(chunk.text, end="", flush=True)
        timings = chunk.timings
    print(f"\n\n{timings.decode_tokens_per_s:.0f} tokens/s after {timings.time_to_first_token_s:.2f} s")


if __name__ == "__main__":
    main()
