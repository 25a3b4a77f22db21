"""A network applied to image files, in batches: paths in, the best classes or other outputs out."""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.bands import read_picture
from gcvit_flax.data.crops import evaluation_crop, whole_image
from gcvit_flax.data.decode import reported_as
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.errors import UserError
from gcvit_flax.weights.classes import best_classes, wordnet_ids

if TYPE_CHECKING:  # JAX is slow to import, and a program's help needs none.
    from gcvit_flax.inference import Predictor
    from gcvit_flax.model.gcvit import GCViT

View = np.ndarray | UserError  # The network's view, (H, W, channels), or why there is none.
Read = Callable[[str], View]

_READERS = 2  # Threads; decoding a large photo takes up to a gigabyte in each.
_WHOLE_IMAGES_AT_A_TIME = 64  # They have up to five shapes, and more at a time fill the batches of each.


def predict(
    model: "GCViT",
    variables: dict[str, Any],
    names: Sequence[str],
    paths: Sequence[str],
    top_k: int = 5,
    batch_size: int = 16,
    whole: bool = False,
) -> Iterator[tuple[str, list[dict[str, Any]] | UserError]]:
    """Yields each path with its `top_k` classes, best first, as {"class", "index", "probability"}.

    Classes of ImageNet-1k also have their "wordnet_id". A file that cannot be read comes with the error instead. With
    `whole`, for models with `pad_to_windows`, the network sees the whole image (`whole_image`).

    Raises:
      UserError: (a ValueError) a model whose outputs are not finite.
    """
    from gcvit_flax.inference import Predictor

    ids = wordnet_ids(names)
    outputs = apply_to_files(Predictor(model, variables), model.preprocessing, paths, batch_size, whole)
    for path, logits in outputs:
        yield path, logits if isinstance(logits, UserError) else _best(logits, names, ids, top_k)


def apply_to_files(
    predictor: "Predictor",
    preprocessing: Preprocessing,
    paths: Sequence[str],
    batch_size: int = 16,
    whole: bool = False,
) -> Iterator[tuple[str, np.ndarray | UserError]]:
    """Yields each path with the predictor's output for its image, or with the error if it cannot be read.

    Paths keep their order; threads read a batch while the one before is computed. One program is compiled for each
    shape, of which `whole` images have up to five.
    """
    at_a_time = max(batch_size, _WHOLE_IMAGES_AT_A_TIME) if whole else batch_size
    read = functools.partial(_read, preprocessing=preprocessing, whole=whole)
    with contextlib.closing(_read_ahead(read, paths, at_a_time)) as chunks:
        for chunk, images in chunks:
            readable = [image for image in images if not isinstance(image, UserError)]
            shrink = len(paths) <= at_a_time
            outputs = iter(_outputs(predictor, preprocessing, readable, batch_size, shrink=shrink))
            for path, image in zip(chunk, images, strict=True):
                yield path, image if isinstance(image, UserError) else next(outputs)


def _read_ahead(read: Read, paths: Sequence[str], at_a_time: int) -> Generator[tuple[Sequence[str], list[View]]]:
    """Yields so many paths at a time and what `read` gives for each; the next are being read meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        try:
            reading = [pool.submit(read, path) for path in paths[:at_a_time]]
            for start in range(0, len(paths), at_a_time):
                middle = start + at_a_time
                ahead = [pool.submit(read, path) for path in paths[middle : middle + at_a_time]]
                yield paths[start:middle], [future.result() for future in reading]
                reading = ahead
        finally:
            pool.shutdown(cancel_futures=True)  # Where no more results are asked for.


def _read(path: str, preprocessing: Preprocessing, whole: bool) -> View:
    """The network's view of a file, (H, W, channels), or why it cannot be read; the full-size image is not kept."""
    try:
        with reported_as(path):
            image = read_picture(path, channels=preprocessing.channels)
            if min(image.size) < 2:
                raise UserError(
                    f"{path}: {image.width}x{image.height} px, expected at least 2 per side; replace or remove it"
                )
            return evaluation_crop(image, whole_image(image, preprocessing) if whole else preprocessing)
    except UserError as error:
        return error


def _outputs(
    predictor: "Predictor", preprocessing: Preprocessing, images: list[np.ndarray], batch_size: int, *, shrink: bool
) -> list[np.ndarray]:
    """The predictor's output for each image, computed in padded batches of one size, so that each shape compiles once.

    `shrink` is for when no more images follow: a batch is then no larger than the power of two that holds the images of
    its shape. There are few such sizes, so the compilation cache soon has them.
    """
    outputs: dict[int, np.ndarray] = {}
    for shape in {image.shape for image in images}:
        same = [index for index, image in enumerate(images) if image.shape == shape]
        size = min(batch_size, 1 << (len(same) - 1).bit_length()) if shrink else batch_size
        for start in range(0, len(same), size):
            batch = same[start : start + size]
            padded = np.zeros((size, *shape), images[batch[0]].dtype)
            padded[: len(batch)] = [images[index] for index in batch]
            rows = np.asarray(predictor(normalize(padded, preprocessing)))
            outputs |= zip(batch, rows, strict=False)  # Leaves out the rows of the padding.
    return [outputs[index] for index in range(len(images))]


def _best(logits: np.ndarray, names: Sequence[str], ids: Sequence[str] | None, top_k: int) -> list[dict[str, Any]]:
    if not np.isfinite(logits).all():
        raise UserError("the model's outputs are not finite: its parameters are damaged, train or convert it again")
    best = best_classes(logits, top_k)
    return [
        {"class": names[index], "index": index, "probability": probability}
        | ({"wordnet_id": ids[index]} if ids else {})
        for index, probability in best
    ]
