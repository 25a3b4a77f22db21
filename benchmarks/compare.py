"""Our GCViT beside another's, on the same work: `python -m benchmarks.compare --peer timm --task train`.

Both take turns in one process, on the same images; ratios are the peer's time over ours. Compile time and peak memory
are those of processes of their own. Training is the trainer's own step on uint8 images (forward, backward, AdamW,
clipping to a global norm, drop path), without augmentation, against the same in the peer.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Literal

import tyro

from gcvit_flax.errors import UserError, run_cli

# Both sides must fit on one GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What to run."""

    task: Literal["infer", "train"] = "infer"
    # A published variant that the peer has too.
    variant: str = "gcvit_xxtiny"
    batch: int = 8
    image_size: int = 224
    dtype: Literal["float32", "bfloat16"] = "float32"
    # timm (PyTorch, channels_last), keras (the package gcvit; KERAS_BACKEND chooses its backend) or none.
    peer: Literal["timm", "keras", "none"] = "timm"
    # Timed turns of each side, after two that are not.
    rounds: int = 10
    # Compile the timm model with torch.compile.
    compile_peer: bool = False
    # Recompute whole blocks of ours in the backward pass.
    remat: bool = False
    # Devices of ours; default: one, or for training on a CPU one a core.
    devices: int | None = None
    # Doubles --batch of ours until memory is exhausted, and prints each.
    sweep: bool = False
    # Print one JSON object.
    json: bool = False
    # What a process of its own does, to measure its memory: run this side alone.
    alone: Literal["ours", "peer"] | None = None


def main() -> None:
    """Parses, measures and prints."""
    options = tyro.cli(Comparison, description=__doc__)
    if options.rounds < 1 or options.batch < 1:
        raise UserError(f"--rounds and --batch must be at least 1, got {options.rounds} and {options.batch}")
    if options.alone:
        print(json.dumps(_measure_alone(options)))
    elif options.sweep:
        _sweep(options)
    else:
        results = compare(options)
        print(json.dumps(results) if options.json else _describe(options, results))


def compare(options: Comparison) -> dict:
    """Times of both sides in turns, and what each needs alone."""
    names = ["ours"] if options.peer == "none" else ["ours", "peer"]
    alone = {name: _in_a_process(options, name) for name in names}
    sides = {name: _make(options, name) for name in names}
    seconds = {name: [] for name in names}
    for turn in range(options.rounds + 2):
        for name, side in sides.items():
            began = time.perf_counter()
            side.run()
            if turn >= 2:  # Memory is touched and threads are started in the first ones.
                seconds[name].append(time.perf_counter() - began)
    results = {"options": dataclasses.asdict(options), "machine": sides["ours"].machine}
    for name in names:
        median = statistics.median(seconds[name])
        results[name] = alone[name] | {
            "what": sides[name].what,
            "median_s": median,
            "min_s": min(seconds[name]),
            "images_per_second": options.batch / median,
        }
        if sides["ours"].flops:
            results[name]["gflop_per_second"] = sides["ours"].flops / median / 1e9
    if "peer" in results:
        results["ratio"] = results["peer"]["median_s"] / results["ours"]["median_s"]
        results["ratio_of_minima"] = results["peer"]["min_s"] / results["ours"]["min_s"]
        results["memory_ratio"] = results["ours"]["peak_memory_gib"] / results["peer"]["peak_memory_gib"]
    results["ceilings"] = sides["ours"].ceilings()
    return results


def _make(options: Comparison, name: str):
    if name == "ours":
        from benchmarks import ours as module
    elif options.peer == "timm":
        from benchmarks import timm_peer as module
    else:
        from benchmarks import keras_peer as module
    return module.Side(options)


def _measure_alone(options: Comparison) -> dict:
    """One side's compile time and peak memory in this process."""
    side = _make(options, options.alone)
    began = time.perf_counter()
    for _ in range(3):
        side.run()
    first = time.perf_counter() - began
    compile_seconds = side.compile_seconds if side.compile_seconds is not None else first
    return {"compile_s": round(compile_seconds, 2), "peak_memory_gib": round(side.peak_memory(), 3)}


def _in_a_process(options: Comparison, name: str) -> dict:
    arguments = [sys.executable, "-m", "benchmarks.compare"]
    for field, value in dataclasses.asdict(dataclasses.replace(options, alone=name, json=False, sweep=False)).items():
        option = field.replace("_", "-")
        if value is True or value is False:
            arguments.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            arguments += [f"--{option}", str(value)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    return json.loads(done.stdout.splitlines()[-1])


def _sweep(options: Comparison) -> None:
    """Ours alone at batch, 2 batch, 4 batch ... until one fails."""
    while True:
        try:
            results = compare(dataclasses.replace(options, peer="none"))
        except UserError as error:
            print(f"batch {options.batch}: {error}")
            return
        ours = results["ours"]
        print(
            f"batch {options.batch}: {ours['images_per_second']:.1f} images/s, {ours['peak_memory_gib']:.2f} GiB",
            flush=True,
        )
        options = dataclasses.replace(options, batch=2 * options.batch)


def _describe(options: Comparison, results: dict) -> str:
    size = f"{options.image_size} px, batch {options.batch}, {options.dtype}"
    lines = [f"{options.task} {options.variant}, {size}, on {results['machine']}"]
    for name in ("ours", "peer"):
        if name not in results:
            continue
        side = results[name]
        rate = f", {side['gflop_per_second']:.0f} GFLOP/s" if "gflop_per_second" in side else ""
        lines.append(
            f"{name} ({side['what']}): median {side['median_s'] * 1e3:.1f} ms, min {side['min_s'] * 1e3:.1f} ms, "
            f"{side['images_per_second']:.1f} images/s{rate}; compiling {side['compile_s']:.1f} s, "
            f"peak memory {side['peak_memory_gib']:.2f} GiB"
        )
    if "ratio" in results:
        lines.append(
            f"ours is {results['ratio']:.2f} times as fast (medians; minima {results['ratio_of_minima']:.2f}), with "
            f"{results['memory_ratio']:.2f} times the memory"
        )
    ceilings = results["ceilings"]
    share = results["ours"].get("gflop_per_second", 0) / ceilings["matmul_gflop_per_second"]
    lines.append(
        f"ceilings: matrix product {ceilings['matmul_gflop_per_second']:.0f} GFLOP/s (ours reaches {share:.0%}), copy "
        f"{ceilings['copy_gb_per_second']:.0f} GB/s"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    run_cli(main)
