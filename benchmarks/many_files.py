"""What a folder of very many images takes: `python -m benchmarks.many_files`.

Makes a folder of 1,000 classes (links to a few generated JPEGs, in the temporary folder), opens it, and draws batches
with worker processes. Prints the seconds to open it, what a worker is sent, and the memory of the processes: private,
and all that they map, shared pages included.
"""

import contextlib
import dataclasses
import itertools
import os
import tempfile
import time
from pathlib import Path

import cloudpickle  # As Grain pickles what it sends to its workers.
import psutil
import tyro

from benchmarks.jpegs import make_jpegs
from gcvit_flax.cli import run_cli
from gcvit_flax.config import Preprocessing
from gcvit_flax.data.batches import training_batches
from gcvit_flax.data.folders import open_folder
from gcvit_flax.data.spec import Parts

_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class ManyFiles:
    """What to run."""

    # Images, over all classes.
    images: int = 1_280_000
    workers: int = 2


def main() -> None:
    """Parses, measures and prints."""
    options = tyro.cli(ManyFiles, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "images")
        _link(make_jpegs(Path(folder, "jpegs"), count=20), root, options.images)
        print(f"before: {_memory(psutil.Process())}")
        began = time.perf_counter()
        data = open_folder(root, 0.1, Parts())
        elapsed = time.perf_counter() - began
        print(
            f"{len(data.train)} + {len(data.validation)} images opened in {elapsed:.1f} s: {_memory(psutil.Process())}"
        )
        print(f"sent to each worker: {len(cloudpickle.dumps(data.train)) / 1e6:.2f} MB")
        batches = training_batches(
            data.train,
            Preprocessing(),
            batch_size=32,
            seed=0,
            start_step=0,
            crop_area=(0.08, 1.0),
            workers=options.workers,
        )
        for _ in range(20):
            next(batches)
        print(f"main process: {_memory(psutil.Process())}")
        for number, worker in enumerate(_workers()):
            print(f"worker {number}: {_memory(worker)}")
        batches.close()


def _link(photos: Path, root: Path, count: int) -> None:
    """Fills `root` with CLASS/IMAGE, hard links to `photos`."""
    sources = itertools.cycle(sorted(photos.rglob("*.jpg")))
    for label in range(_CLASSES):
        (root / f"n{label:08}").mkdir(parents=True)
        for index in range(count // _CLASSES):
            os.link(next(sources), root / f"n{label:08}" / f"n{label:08}_{index:05}.JPEG")


def _memory(process: psutil.Process) -> str:
    memory = process.memory_full_info()
    return f"{memory.uss / 1e6:.0f} MB private, {memory.rss / 1e6:.0f} MB mapped"


def _workers() -> list[psutil.Process]:
    """The processes that Grain has started, without multiprocessing's own."""
    children = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(process.cmdline()):
                children.append(process)
    return children


if __name__ == "__main__":
    run_cli(main)
