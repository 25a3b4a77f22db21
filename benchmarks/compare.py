"""Our GCViT beside another's, on the same work: `python -m benchmarks.compare --peer timm --task train`.

Each side has a process of its own, and they take turns; ratios are the peer's time over ours. Compile time is the
first run minus the second. Inference is `Predictor`. Training is the trainer's own step on uint8 images (forward,
backward, AdamW, clipping to a global norm, drop path), without augmentation, against the same in the peer.
"""

import dataclasses
import importlib
import itertools
import json
import os
import statistics
from collections.abc import Generator, Iterator
from typing import Any, Literal

import tyro

from benchmarks.processes import rows_of
from benchmarks.timing import seconds_of
from gcvit_flax.cli import run_cli
from gcvit_flax.errors import UserError
from gcvit_flax.huge_pages import huge_pages_environment

# Both sides must fit on one GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

_TURN_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What to run."""

    task: Literal["infer", "train"] = "infer"
    # A published variant that the peer has too.
    variant: str = "gcvit_xxtiny"
    batch: int = 8
    image_size: int = 224
    dtype: Literal["float32", "bfloat16"] = "float32"
    # timm (PyTorch, channels_last), the same network in openvino or onnxruntime (inference alone), keras (the package
    # gcvit, on TensorFlow) or none.
    peer: Literal["timm", "openvino", "onnxruntime", "keras", "none"] = "timm"
    # Turns of each side, of one run, or of as many as take 0.3 seconds.
    rounds: int = 10
    # Compile the timm model with torch.compile.
    compile_peer: bool = False
    # Recompute whole blocks of ours in the backward pass.
    remat: bool = False
    # Devices of our side; default: one per core on a CPU.
    devices: int | None = None
    # Double our --batch until memory is exhausted, and print each result.
    sweep: bool = False
    # Print one JSON object.
    json: bool = False


def main() -> None:
    """Parses, measures and prints."""
    options = tyro.cli(Comparison, description=__doc__)
    if options.rounds < 1 or options.batch < 1:
        raise UserError(f"--rounds and --batch must be at least 1, got {options.rounds} and {options.batch}")
    if options.sweep:
        _sweep(options)
    else:
        results = compare(options)
        print(json.dumps(results) if options.json else _describe(options, results))


def compare(options: Comparison) -> dict:
    """Times of both sides in turns, and what each needs."""
    names = ["ours"] if options.peer == "none" else ["peer", "ours"]  # The peer first: it may not be installed.
    sides = {name: _start(options, name) for name in names}
    results = {"options": dataclasses.asdict(options)} | {name: next(side) for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, side in sides.items():
            seconds[name] += next(side)
    for name, side in sides.items():
        results[name] |= next(side) | _summary(seconds[name], options.batch)
    results["ours"] |= next(sides["ours"])
    for name in names:
        results[name]["gflop_per_second"] = results["ours"]["flops"] / results[name]["median_s"] / 1e9
    if "peer" in results:
        results["ratio"] = results["peer"]["median_s"] / results["ours"]["median_s"]
        results["ratio_of_minima"] = results["peer"]["min_s"] / results["ours"]["min_s"]
        results["memory_ratio"] = results["ours"]["peak_memory_gib"] / results["peer"]["peak_memory_gib"]
    return results


def _start(options: Comparison, name: str) -> Generator[Any]:
    """`measure` in a process of its own, which is started as the trainer starts itself if it trains ours."""
    environment = huge_pages_environment() if (options.task, name) == ("train", "ours") else {}
    return rows_of(measure, options, name, what=f"{name} at batch {options.batch}", **environment)


def measure(options: Comparison, name: str) -> Iterator[Any]:
    """What compiling takes; then the seconds of the runs of each turn; then peak memory; and what ours knows more."""
    module = "benchmarks.ours" if name == "ours" else f"benchmarks.{options.peer}_peer"
    side = importlib.import_module(module).Side(options)
    first, second = seconds_of(side.run), seconds_of(side.run)
    yield {"what": side.what, "compile_s": first - second}
    for _ in range(options.rounds):
        yield _turn(side.run)
    yield {"peak_memory_gib": side.peak_memory()}
    if name == "ours":
        yield side.facts()


def _turn(run) -> list[float]:
    """The seconds of each run; where there are several, without the first, which finds the other side in the cache."""
    seconds: list[float] = []
    while sum(seconds) < _TURN_SECONDS:
        seconds.append(seconds_of(run))
    return seconds[1:] or seconds


def _summary(seconds: list[float], batch: int) -> dict:
    median = statistics.median(seconds)
    return {"median_s": median, "min_s": min(seconds), "images_per_second": batch / median}


def _sweep(options: Comparison) -> None:
    """Ours alone at batch, 2 batch, 4 batch ... until one fails."""
    while True:
        side = _start(options, "ours")
        try:
            _, *turns, memory = itertools.islice(side, options.rounds + 2)
        except UserError as error:
            print(f"batch {options.batch}: {error}")
            return
        finally:
            side.close()
        rate = _summary([*itertools.chain(*turns)], options.batch)["images_per_second"]
        print(f"batch {options.batch}: {rate:.1f} images/s, {memory['peak_memory_gib']:.2f} GiB", flush=True)
        options = dataclasses.replace(options, batch=2 * options.batch)


def _describe(options: Comparison, results: dict) -> str:
    size = f"{options.image_size} px, batch {options.batch}, {options.dtype}"
    lines = [f"{options.task} {options.variant}, {size}, on {results['ours']['machine']}"]
    for name in ("ours", "peer"):
        if name not in results:
            continue
        side = results[name]
        lines.append(
            f"{name} ({side['what']}): median {side['median_s'] * 1e3:.1f} ms, min {side['min_s'] * 1e3:.1f} ms, "
            f"{side['images_per_second']:.1f} images/s, {side['gflop_per_second']:.0f} GFLOP/s; "
            f"compiling {side['compile_s']:.1f} s, peak memory {side['peak_memory_gib']:.2f} GiB"
        )
    if "ratio" in results:
        lines.append(
            f"ours is {results['ratio']:.2f} times as fast (medians; minima {results['ratio_of_minima']:.2f}), with "
            f"{results['memory_ratio']:.2f} times the memory"
        )
    ceilings = results["ours"]["ceilings"]
    share = results["ours"]["gflop_per_second"] / ceilings["matmul_gflop_per_second"]
    lines.append(
        f"ceilings: matrix product {ceilings['matmul_gflop_per_second']:.0f} GFLOP/s (ours reaches {share:.0%}), copy "
        f"{ceilings['copy_gb_per_second']:.0f} GB/s"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    run_cli(main)
