"""Catalog: which models there are, and which are loaded, in Ollama's words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from edgert import __version__
from edgert.batch.setup import identity
from edgert.bundle import CHAT_TEMPLATE, MANIFEST
from edgert.serve.models import Models, Served
from edgert.serve.ollama.body import TAG
from edgert.text.template import ChatTemplate


class Catalog:
    """What the addresses answer that ask nothing of a model."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def version(self) -> dict[str, str]:
        """Of edgert."""
        return {"version": __version__}

    def tags(self) -> dict[str, Any]:
        """All models that are served."""
        return {"models": [self._about(served) for served in self._models.served.values()]}

    def running(self) -> dict[str, Any]:
        """Those that are loaded."""
        return {"models": [self._loaded(name) for name in self._models.loaded]}

    def show(self, name: str) -> dict[str, Any]:
        """One of them. Raises NoSuchModel."""
        served = self._models.named(name.removesuffix(TAG))
        facts, source = served.bundle.manifest.model, served.bundle.text(CHAT_TEMPLATE)
        template = ChatTemplate(source) if source is not None else None
        able = {"tools": template and template.takes_tools, "thinking": template and template.thinks}
        family = facts.family
        return {
            "modelfile": f"# a bundle of edgert: {served.bundle.manifest.name}",
            "parameters": "\n".join(f"{key} {value}" for key, value in served.options.items()),
            "template": source or "",
            "details": _details(served),
            "model_info": {
                "general.architecture": family,
                "general.parameter_count": facts.parameters,
                f"{family}.context_length": facts.context,
                f"{family}.embedding_length": facts.hidden_size,
                f"{family}.block_count": facts.num_layers,
                f"{family}.vocab_size": facts.vocab_size,
            },
            "capabilities": ["completion", *(name for name, has in able.items() if has)],
            "modified_at": _made(served).isoformat(),
        }

    def _about(self, served: Served) -> dict[str, Any]:
        name = served.name + TAG
        return {
            "name": name,
            "model": name,
            "modified_at": _made(served).isoformat(),
            "size": served.bundle.size,
            "digest": identity(served.bundle),
            "details": _details(served),
        }

    def _loaded(self, name: str) -> dict[str, Any]:
        about, loaded = self._about(self._models.served[name]), self._models.loaded[name]
        stays_s = min(self._models.stays_s(name), 1e9)  # for ever is thirty years
        expires = datetime.now(UTC) + timedelta(seconds=stays_s)
        context = {"context_length": loaded.model.context, "size_vram": 0}
        return {**about, "expires_at": expires.isoformat(), **context}


def _details(served: Served) -> dict[str, Any]:
    manifest = served.bundle.manifest
    millions = manifest.model.parameters / 1e6
    return {
        "parent_model": "",
        "format": "onnx",
        "family": manifest.model.family,
        "families": [manifest.model.family],
        "parameter_size": f"{millions / 1000:.1f}B" if millions >= 1000 else f"{millions:.0f}M",
        "quantization_level": manifest.quantization.scheme.upper(),
    }


def _made(served: Served) -> datetime:
    return datetime.fromtimestamp((served.bundle.folder / MANIFEST).stat().st_mtime, UTC)
