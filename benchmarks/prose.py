"""English technical prose that every Python carries: the language reference behind `help('types')`."""

from pydoc_data.topics import topics


def prose() -> str:
    """About 15,000 SmolLM2 tokens; nothing in edgert was tuned on them."""
    return "\n\n".join(topics[name] for name in ("objects", "types", "naming", "execmodel", "exceptions"))
