"""Setup: which bundle answers a batch, and how it is loaded, here or on another machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from edgert.bundle import Bundle
from edgert.model import Model, load


@dataclass(frozen=True)
class Setup:
    """What `edgert.load` is given, and the adapter that answers. `folder` is the bundle's, `draft` that of a
    smaller student.
    """

    folder: str
    device: str | None = None
    context: int | None = None
    kv: str | None = None
    threads: int | None = None
    conversations: int | None = None
    force: bool = False
    adapter: str | None = None
    draft: str | None = None

    def open(self) -> Model:
        """The model. Raises what `edgert.load` raises."""
        model = load(
            self.folder,
            self.device,
            self.context,
            self.kv,
            threads=self.threads,
            conversations=self.conversations,
            force=self.force,
            draft=self.draft,
        )
        if self.adapter is not None:
            model.use(self.adapter)
        return model


def identity(bundle: Bundle) -> str:
    """A SHA-256 of all that a bundle's answers depend on, from the hashes in its manifest."""
    hashes = {name: facts.sha256 for name, facts in bundle.manifest.files.items()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
