"""TensorBoard's events in an object store, where nothing can be appended to an object."""

import io
import logging

from etils import epath

from gcvit_flax.errors import UserError
from gcvit_flax.storage import explained

logger = logging.getLogger("gcvit_flax")


class EventsObject:
    """What tensorboardX writes into: kept in memory, and uploaded whole when it flushes, every two minutes."""

    def __init__(self, path: str):
        self._path, self._content, self._tried = epath.Path(path), io.BytesIO(), 0

    def write(self, record: bytes) -> None:
        """Takes some more bytes."""
        self._content.write(record)

    def flush(self) -> None:
        """Uploads what there is, if it is more than the last time; a warning says if that fails."""
        content = self._content.getvalue()
        if len(content) == self._tried:  # tensorboardX flushes several times at the end.
            return
        self._tried = len(content)
        try:
            with explained(self._path):
                self._path.write_bytes(content)
        except (UserError, OSError) as error:  # In a thread of tensorboardX, or at its end.
            logger.warning("events cannot be written: %s", error)

    def close(self) -> None:
        """Uploads what is left."""
        self.flush()


class EventsStore:
    """Opens files of events for tensorboardX."""

    def open(self, path: str) -> EventsObject:
        """A new object."""
        return EventsObject(path)

    def directory_check(self, path: str) -> None:
        """A store has no folder to be made."""
