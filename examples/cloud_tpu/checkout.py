"""Which commit of which repository the machines install: this checkout's, unless told otherwise."""

import subprocess
import sys
from pathlib import Path

_ADVICE = "give --repository https://... with an address that the machines can clone"


def find_source(repository: str | None) -> tuple[str, str]:
    """The https:// address and the commit to install: of `repository` its default branch; exits if there is none."""
    url = repository or _git("remote", "get-url", "origin")
    if not url:
        sys.exit(f"error: this is no git checkout with a remote named origin for the machines to clone: {_ADVICE}")
    if not url.startswith("https://"):
        sys.exit(f"error: {url} is no https:// address, which the machines need: {_ADVICE}")
    if repository:
        return url, "HEAD"
    commit = _git("rev-parse", "HEAD")
    if not _git("branch", "--remotes", "--contains", "HEAD"):
        sys.exit(f"error: commit {commit[:12]} of this checkout is not on {url}: push it, or {_ADVICE}")
    return url, commit


def _git(*arguments: str) -> str:
    """What git says of this checkout; nothing if it cannot."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""
