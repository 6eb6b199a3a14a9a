"""The bundle: the folder that export writes and the runtime reads; the only contract between the two.

model.onnx            the graph as edgert runs it
model-kv8.onnx        the same with keys and values cached in 8 bits, if a device or the user asked for it
model-rows8.onnx      the same weights read another way, for a second device (-kv8 as above)
genai.onnx            the same graph with the inputs onnxruntime-genai feeds; shares the weights
genai_config.json     opens the bundle in onnxruntime-genai
model.onnx.data       every weight, once
tokenizer.json        tokenizer, as Hugging Face writes it
tokenizer_config.json special tokens
chat_template.jinja   turns messages into a prompt; absent for base models
adapters/             LoRAs to choose from, in onnxruntime's own format, if the export was given some
golden.json           a few texts and what the model predicts after each of their tokens
edgert.json           the manifest: facts, quantization, sizes and hashes, origin, defaults
machine/              made on the machine that runs it, by `edgert prepare` and `edgert tune`; not exported
"""

from edgert.bundle.files import (
    CHAT_TEMPLATE,
    DATA,
    GENAI_CONFIG,
    GENAI_GRAPH,
    GOLDEN,
    GRAPH,
    MACHINE,
    MANIFEST,
    TOKENIZER,
    TOKENIZER_CONFIG,
    FileFacts,
    file_facts,
)
from edgert.bundle.manifest import (
    ADAPTER_NAME,
    ADAPTERS,
    FORMS,
    AdapterFacts,
    Fidelity,
    GenerationDefaults,
    GraphFacts,
    Manifest,
    ModelFacts,
    Origin,
    Quantization,
)
from edgert.bundle.opening import REPLACED, Bundle, open_bundle

__all__ = [
    "ADAPTERS",
    "ADAPTER_NAME",
    "CHAT_TEMPLATE",
    "DATA",
    "FORMS",
    "GENAI_CONFIG",
    "GENAI_GRAPH",
    "GOLDEN",
    "GRAPH",
    "MACHINE",
    "MANIFEST",
    "REPLACED",
    "TOKENIZER",
    "TOKENIZER_CONFIG",
    "AdapterFacts",
    "Bundle",
    "Fidelity",
    "FileFacts",
    "GenerationDefaults",
    "GraphFacts",
    "Manifest",
    "ModelFacts",
    "Origin",
    "Quantization",
    "file_facts",
    "open_bundle",
]
