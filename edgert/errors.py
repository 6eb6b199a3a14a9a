"""Everything edgert raises on purpose, each with the exit code the command line uses.

EdgertError                 1   something a user can act on; the text says what, where and what to do
├── UsageError              2   an argument out of range, an unknown name
├── MissingExtra            3   an optional part isn't installed; names the pip command
├── BundleError             4   a bundle that isn't one, is damaged, or is of a newer format
├── DeviceError             5   an unknown profile, a provider that isn't there
├── CheckpointError         6   a checkpoint that can't be read or doesn't fit its config
├── PullError               7   a model that couldn't be obtained or has the wrong hash
├── PromptTooLong           8   more tokens than the context holds; carries both numbers
├── FidelityError          10   an export that lost more than it was allowed to
├── DoesNotFit             11   a bundle that needs more memory than there is
└── LinesFailed            12   a batch that is complete, with errors in place of some answers
"""

from __future__ import annotations

from edgert.installation import how_to_add


class EdgertWarning(UserWarning):
    """Something works, but not as well as it could; the text says what it costs and what helps."""


class EdgertError(Exception):
    """Base of all errors a user can act on."""

    exit_code = 1


class UsageError(EdgertError, ValueError):
    """An argument out of range or an unknown name."""

    exit_code = 2


class MissingExtra(EdgertError, ImportError):
    """An optional part of edgert isn't installed."""

    exit_code = 3

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs the [{extra}] extra: {how_to_add(extra)}")


class BundleError(EdgertError):
    """A folder that isn't a bundle, or a damaged one."""

    exit_code = 4


class DeviceError(EdgertError):
    """An unknown device profile or an unusable provider."""

    exit_code = 5


class CheckpointError(EdgertError):
    """A checkpoint that can't be read or doesn't fit its own config."""

    exit_code = 6


class PullError(EdgertError):
    """A model that couldn't be obtained."""

    exit_code = 7


class ConversationWarning(EdgertWarning):
    """What a conversation goes on without: older turns in its prompts, keys and values that were kept."""


class PromptTooLong(EdgertError):
    """A prompt that leaves no room to answer; nothing is ever cut off silently.

    `facts` is the text without the advice, which differs where there is a command line.
    """

    exit_code = 8

    def __init__(self, prompt_tokens: int, context: int, what: str = "the prompt") -> None:
        self.prompt_tokens = prompt_tokens
        self.context = context
        self.facts = f"{what} has {prompt_tokens} tokens, the context holds {context}"
        super().__init__(f"{self.facts}: shorten it, or load with a larger context=")


class FidelityError(EdgertError):
    """A bundle that lost more of the original's predictions than it was allowed to."""

    exit_code = 10


class DoesNotFit(EdgertError):
    """A bundle that needs more memory than is free."""

    exit_code = 11


class LinesFailed(EdgertError):
    """A batch that is complete, with errors in place of some answers."""

    exit_code = 12
