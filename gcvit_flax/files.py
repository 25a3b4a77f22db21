"""Files that are never seen half written."""

from etils import epath


def replace_text(path: epath.PathLike, text: str) -> None:
    """Writes `text` to `path` as `replace_bytes` does."""
    replace_bytes(path, text.encode())


def replace_bytes(path: epath.PathLike, content: bytes) -> None:
    """Writes `content` beside `path`, then gives it that name: a crash leaves the old file or the new one, whole."""
    path = epath.Path(path)
    draft = path.with_name(f"{path.name}.partial")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
