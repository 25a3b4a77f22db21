"""A fuzz of all image readers: generated and damaged files give pixels or a sentence, in little memory and time.

`python tests/soak/image_fuzz.py SECONDS SEED FOLDER` tries files and prints what it found, as JSON; `fuzz` runs that in
a process of its own, whose memory is limited, and which may crash or hang.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from image_files_to_damage import Case, cases, damage

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.bands import pixel_type, read_picture
from gcvit_flax.data.crops import evaluation_crop, read_crop, whole_image
from gcvit_flax.data.decode import reported_as
from gcvit_flax.data.preprocess import normalize, preprocess
from gcvit_flax.data.random_crop import random_resized_crop
from gcvit_flax.errors import UserError
from gcvit_flax.training.report.process_memory import peak_memory_of_process
from gcvit_flax.variants import for_channels

ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 3 * 2**30  # For the whole process: a decoded image at Pillow's limit takes 0.7 GB.
SECONDS_PER_FILE = 60  # Of the processor, to read it in five ways: at Pillow's limit some seconds each.
PATIENCE_SECONDS = 300  # For a process to end after its time: a file, and what hypothesis does with what it finds.
IMAGES_PER_ROUND = 20
DAMAGED_COPIES = 20
SIZE = (32, 48)


def fuzz(seconds: float, first_seed: int, folder: Path) -> dict[str, Any]:
    """Tries files for so many seconds, for 0 those of one round: counts, and what was found.

    `folder` has the last file of each kind then, and files that something was found with.
    """
    command = [sys.executable, __file__, str(seconds), str(first_seed), str(folder)]
    # Each thread of OpenBLAS would reserve memory.
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OPENBLAS_NUM_THREADS": "1"}
    try:
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds + PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"files": 0, "found": [f"a reader hangs with the last file in {folder}"]}
    if process.returncode:
        what = f"{process.stderr[-2000:]}\nexit status {process.returncode}, with the last file in {folder}"
        return {"files": 0, "found": [what]}
    return json.loads(process.stdout.splitlines()[-1])


class Model:
    """What `preprocess` needs of a network."""

    def __init__(self, channels: int) -> None:
        self.preprocessing = for_channels(Preprocessing(SIZE, crop_fraction=0.875), channels)


def check(case: Case, content: bytes | None, path: Path) -> bool:
    """Reads a file, or without `content` an image in memory, in every way; whether all of them gave pixels."""
    model = Model(case.channels)
    squashed = for_channels(Preprocessing(SIZE, crop_mode="squash"), case.channels)
    if content is None:
        source = case.image
    else:
        path.write_bytes(content)
        source = path if case.by_path else content

    def whole() -> np.ndarray:
        with reported_as("image"):  # As predict does.
            picture = read_picture(source, channels=case.channels)
            shown = whole_image(picture, model.preprocessing)
            pixels = evaluation_crop(picture, shown)
        assert pixels.shape[:2] == shown.image_size
        return np.resize(pixels, (*SIZE, case.channels))

    def random() -> np.ndarray:
        return random_resized_crop(source, SIZE, np.random.default_rng(0), (0.08, 1.0), channels=case.channels)

    ways = {"evaluation": lambda: read_crop(source, model.preprocessing), "random": random}
    ways |= {"squashed": lambda: read_crop(source, squashed), "whole": whole}
    readable = True
    for way, read in ways.items():
        try:
            pixels = read()
        except UserError as error:
            readable = False
            assert len(str(error).splitlines()) == 1 and " ()" not in str(error), f"{way}: {error}"
            continue
        assert pixels.shape == (*SIZE, case.channels), f"{way}: {pixels.shape}"
        assert pixels.dtype == pixel_type(case.channels), f"{way}: {pixels.dtype}"
        assert np.isfinite(normalize(pixels, model.preprocessing)).all(), f"{way}: not finite"
    try:
        with contextlib.nullcontext(case.image) if content is None else path.open("rb") as file:
            assert preprocess(file, model).shape[1:] == (*SIZE, case.channels)  # Four axes are a batch.
    except UserError:
        readable = False
    return readable


def main(seconds: float, first_seed: int, folder: Path) -> dict[str, Any]:
    """Rounds of files, each from a seed of its own, until the time is over: one at least."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.RLIM_INFINITY))
    counts = {"files": 0, "read": 0, "refused": 0}
    found, slowest, start, rounds = [], 0.0, time.monotonic(), 0

    def attempt(case: Case, content: bytes | None) -> None:
        nonlocal slowest
        before = time.process_time()
        path = folder / f"last{case.suffix}"
        try:
            readable = check(case, content, path)
            slowest = max(slowest, time.process_time() - before)
            assert time.process_time() - before < SECONDS_PER_FILE, "takes too long"
        except Exception:
            if content is not None:
                shutil.copy(path, folder / f"found_{rounds}{case.suffix}")
            raise
        counts["files"] += 1
        counts["read" if readable else "refused"] += 1

    while not rounds or time.monotonic() < start + seconds:

        @seed(first_seed + rounds)
        @settings(
            max_examples=IMAGES_PER_ROUND,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # The damaged file is kept; a smaller image would say no more.
            suppress_health_check=[*HealthCheck],
            report_multiple_bugs=False,
        )
        @given(cases(), st.integers(0, 2**32))
        def one_round(case: Case, damage_seed: int) -> None:
            attempt(case, case.content)
            rng = random.Random(damage_seed)
            for _ in range(0 if case.content is None else DAMAGED_COPIES):
                attempt(case, damage(case.content, rng))

        rounds += 1
        try:
            one_round()
        except Exception as error:
            notes = "\n".join(getattr(error, "__notes__", []))
            found.append(f"{notes[:3000]}\n{traceback.format_exc()[-3000:]}")
    took = {"seconds": round(time.monotonic() - start), "slowest_file_seconds": round(slowest, 2)}
    return {
        **counts,
        "seed": first_seed,
        "rounds": rounds,
        **took,
        "peak_memory_mb": peak_memory_of_process() >> 20,
        "found": found,
    }


if __name__ == "__main__":
    print(json.dumps(main(float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
