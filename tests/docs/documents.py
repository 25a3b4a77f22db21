"""What the documents have a reader type, run and follow."""

import re
import shlex
from pathlib import Path

from small import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> dict[str, str]:
    """The commands of all `sh` blocks, without comments, and the first document that has each."""
    found: dict[str, str] = {}
    for document in DOCUMENTS:
        for command in (command for block in blocks(document, "sh") for command in _split(block)):
            found.setdefault(command, document.stem)
    return found


def _split(block: str) -> list[str]:
    """The commands of a block, of which some go on in the next line."""
    found, command = [], ""
    for line in block.splitlines():
        command += re.sub(r"(^|\s+)#\s.*", "", line)
        if command.endswith("\\"):
            command = command[:-1]
        elif _is_whole(command):
            found += [command.strip()] if command.strip() else []
            command = ""
        else:
            command += "\n"
    assert not command, f"not a whole command: {command}"
    return found


def _is_whole(command: str) -> bool:
    try:
        return bool(shlex.split(command)) or not command
    except ValueError:  # A quotation that goes on in the next line.
        return False


def commands_of_tables() -> list[str]:
    """The Python commands in the rows of tables: measured results; each once."""
    rows = [line for document in DOCUMENTS for line in document.read_text().splitlines() if line.startswith("|")]
    return list(dict.fromkeys(re.findall(r"`(python [^`]+)`", "\n".join(rows))))


def make_targets() -> set[str]:
    """What `make` is told to do anywhere in the documents, prose included."""
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    in_code = re.findall(r"`(?:[A-Z]+=\S+ )*make ([a-z-]+)", text)
    return {*in_code, *(command.split()[1] for command in commands() if command.startswith("make "))}


def links(document: Path) -> list[str]:
    """The targets of links and pictures, but for those to other sites."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(document: Path) -> set[str]:
    """What a link can name after #: headings as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
