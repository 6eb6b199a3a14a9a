"""genai_config.json: opens the bundle in onnxruntime-genai and its C#, C++, Java and Objective-C bindings."""

from __future__ import annotations

from typing import Any

from edgert.bundle import GENAI_GRAPH, GenerationDefaults, ModelFacts, graph_io


def genai_config(facts: ModelFacts, generation: GenerationDefaults, kind: str) -> dict[str, Any]:
    """The configuration as the model builder of onnxruntime-genai 0.18 writes it; `kind`: a type it knows."""
    eos = list(generation.eos_token_ids)
    pad = eos[0] if eos else 0
    decoder = {
        "session_options": {
            "log_id": "onnxruntime-genai",
            "provider_options": [],
            # Sums of 8-bit products must not overflow, as they do on x86 without VNNI.
            "session.x64quantprecision": "1",
        },
        "filename": GENAI_GRAPH,
        "head_size": facts.head_dim,
        "hidden_size": facts.hidden_size,
        "inputs": {
            "input_ids": graph_io.INPUT_IDS,
            "attention_mask": graph_io.ATTENTION_MASK,
            "past_key_names": graph_io.past("%d", "key"),
            "past_value_names": graph_io.past("%d", "value"),
        },
        "outputs": {
            "logits": graph_io.LOGITS,
            "present_key_names": graph_io.present("%d", "key"),
            "present_value_names": graph_io.present("%d", "value"),
        },
        "num_attention_heads": facts.num_heads,
        "num_hidden_layers": facts.num_layers,
        "num_key_value_heads": facts.num_kv_heads,
    }
    model = {
        "bos_token_id": pad if generation.bos_token_id is None else generation.bos_token_id,
        "context_length": facts.context,
        "decoder": decoder,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "type": kind,
        "vocab_size": facts.vocab_size,
    }
    return {"model": model, "search": _search(generation, facts.context)}


def _search(generation: GenerationDefaults, context: int) -> dict[str, Any]:
    return {
        "do_sample": generation.temperature > 0,
        "max_length": context,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": generation.repetition_penalty,
        "temperature": generation.temperature or 1.0,
        "top_k": generation.top_k,
        "top_p": generation.top_p,
    }
