"""Text files that are never seen half written."""

from etils import epath


def replace_text(path: epath.PathLike, text: str) -> None:
    """Writes `text` beside `path`, then gives it that name: a crash leaves the old file or the new one, whole."""
    path = epath.Path(path)
    draft = path.with_name(f"{path.name}.partial")
    draft.write_text(text)
    draft.replace(path)
