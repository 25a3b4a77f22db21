"""The error type whose message is meant for the user."""

import re


class UserError(ValueError):
    """A mistake that the user can correct: one sentence with what was found, what was expected and what to do."""


def summarize_error(error: Exception) -> str:
    """The first line of an error's message, or its type: for the inside of a sentence."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r" \[[\w ]+='.*", "", line)  # TensorStore ends its messages with [name='value'] of everything.
