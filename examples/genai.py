"""Open a bundle in onnxruntime-genai, too: python examples/genai.py [BUNDLE]

It has C#, C++ and Java besides Python (pip install onnxruntime-genai). Both say the same.
"""

import json
import sys
from pathlib import Path

import onnxruntime_genai

import edgert

QUESTION = "Why is the sky blue?"
LONGEST = 60  # tokens of an answer


def by_genai(folder: Path) -> str:
    """The whole answer; its own tokenizer and the bundle's chat template."""
    model = onnxruntime_genai.Model(str(folder))
    tokenizer = onnxruntime_genai.Tokenizer(model)
    messages = json.dumps([{"role": "user", "content": QUESTION}])
    prompt = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))

    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + LONGEST, do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    return str(tokenizer.decode(generator.get_sequence(0)[len(prompt) :]))


def main() -> None:
    bundle = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
    with edgert.load(bundle) as model:
        folder = model.bundle.folder
        print("edgert:           ", model.generate(QUESTION, temperature=0.0, max_tokens=LONGEST).text)
    print("onnxruntime-genai:", by_genai(folder))


if __name__ == "__main__":
    main()
