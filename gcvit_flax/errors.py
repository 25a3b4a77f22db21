"""The error type whose message is meant for the user."""

import re

_LONGEST = 200  # Characters of another library's message that a sentence quotes.


class UserError(ValueError):
    """A mistake that the user can correct: one sentence with what was found, what was expected and what to do.

    Names from a file may have any characters in them: those that would break the line or steer a terminal are escaped.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in sentence))


def summarize_error(error: Exception) -> str:
    """The first line of an error's message, or its type: for the inside of a sentence."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = re.sub(r" \[[\w ]+='.*", "", line)  # TensorStore ends its messages with [name='value'] of everything.
    if len(line) <= _LONGEST:
        return line
    half = _LONGEST // 2  # What was done is named at the beginning, and the reason at the end.
    return f"{line[:half]} ... {line[-half:]}"
