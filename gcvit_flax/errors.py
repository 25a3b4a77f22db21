"""The one error type meant for people."""


class UserError(ValueError):
    """A mistake the user can mend: one sentence with what was found, what was expected and what to do."""


def summarize_error(error: Exception) -> str:
    """What `error` says, in one line, for the inside of a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
