"""Compare: two bundles on the same prompts, side by side."""

from edgert.compare.measure import compare

__all__ = ["compare"]
