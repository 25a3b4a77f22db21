"""Published weights by name: fetched, converted and kept as model folders, for use as if they were folders."""

import logging
import os

from etils import epath

from gcvit_flax.storage import is_remote
from gcvit_flax.weights.folder_config import FORMAT_VERSION
from gcvit_flax.weights.published import find_published

logger = logging.getLogger("gcvit_flax")


def find_model_folder(path: epath.PathLike) -> epath.PathLike:
    """`path` itself or, if nothing is there and it names published weights, the model folder made of them.

    A name is one of PUBLISHED or a published file's. The file and the folder are kept in `cache_folder()`, so that
    only the first use needs the network.

    Raises:
      UserError: (a ValueError) the file cannot be fetched, or is not what was published.
    """
    name = os.fspath(path)
    published = None if is_remote(name) or os.path.isdir(name) else find_published(name)
    if published is None:
        return path
    # Slow to import, and not needed for a folder.
    from gcvit_flax.weights.convert import convert
    from gcvit_flax.weights.download import cache_folder, fetch, locked, place

    folder = place(published, cache_folder()).with_name(f"model_{FORMAT_VERSION}")
    if not folder.exists():
        file = fetch(published.url)
        with locked(file.parent, published.url):
            if not folder.exists():  # Another process may have made it meanwhile.
                report = convert(published.url, folder)
                logger.info("%s is now in %s, under the license %s", name, folder, report.license)
    return folder
