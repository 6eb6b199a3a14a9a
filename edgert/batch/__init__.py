"""Batch: a file of prompts, answered to the last line, in order, whatever interrupts it."""

from edgert.batch.job import Job, Tally
from edgert.batch.local import Local
from edgert.batch.setup import Setup

__all__ = ["Job", "Local", "Setup", "Tally"]
