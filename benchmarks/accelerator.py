"""What a GPU or TPU makes of the network, in minutes: `python -m benchmarks.accelerator`, or --parts for some of it.

Prints tables in Markdown: how far logits and gradients are from the CPU's; images per second of inference and of the
trainer's own step, with the memory that they take; milliseconds of the network's pieces, ours beside the plain form of
their kernels; and timm with torch.compile beside ours, where PyTorch has the same accelerator. Everything is measured
in processes of its own, the most telling first, until the --minutes are over; what was left out is named. Compiled
programs are kept: a second run gets further.
"""

import dataclasses
import datetime
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import tyro

from benchmarks import accelerator_parity, accelerator_pieces, accelerator_rates
from benchmarks.accelerator_tables import describe
from benchmarks.compare import Comparison
from benchmarks.processes import OutOfTimeError, rows_of
from gcvit_flax.atomic import replace_text
from gcvit_flax.cli import run_cli
from gcvit_flax.errors import UserError
from gcvit_flax.variants import VARIANTS

# The largest shares of the time that these may take, so that a slow compiler leaves some to what comes after.
_SHARES = {"parity": 0.3, "pieces": 0.35, "timm": 0.25, "rates": 1.0}


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """What to measure; the first variant and batch are the most telling ones."""

    # Of everything together.
    minutes: float = 8.0
    parts: tuple[Literal["parity", "rates", "pieces", "timm"], ...] = ("parity", "rates", "pieces", "timm")
    variants: tuple[str, ...] = ("gcvit_xxtiny", "gcvit_tiny", "gcvit_base")
    # Images on each device at a time.
    batches: tuple[int, ...] = (128, 32, 512)
    # What layers compute in; parity takes both, and pieces the first.
    dtypes: tuple[Literal["bfloat16", "float32"], ...] = ("bfloat16", "float32")
    image_size: int = 224
    # A network smaller than the variants, for a short try: blocks of each level, and channels of the first.
    depths: tuple[int, int, int, int] | None = None
    embed_dim: int | None = None
    # That one measurement takes at least, if it is not 20 calls before; each is the median of five.
    seconds: float = 0.1
    # A file for all results.
    json: Path | None = None


@dataclasses.dataclass(frozen=True)
class Item:
    """Something to measure: a generator of rows of the tables, which runs in a process of its own."""

    name: str
    measure: Callable[..., Iterator[dict]]
    arguments: tuple
    share: float  # Of the whole time, at most.


def main() -> None:
    """Parses, measures and prints."""
    began = time.monotonic()
    options = tyro.cli(Accelerator, description=__doc__)
    _check(options)
    results = measure(_items(options), began, options.minutes * 60)
    if not results["tables"].keys() - {"machine"}:
        raise UserError(f"nothing was measured of {options.minutes:g} minutes' work: {'; '.join(results['left_out'])}")
    results["date"] = datetime.date.today().isoformat()
    results["command"] = shlex.join(["python", "-m", "benchmarks.accelerator", *sys.argv[1:]])
    if options.json:
        replace_text(options.json, json.dumps(results, indent=1))
    print(describe(results))


def _check(options: Accelerator) -> None:
    numbers = {"--minutes": options.minutes, "--seconds": options.seconds, "--batches": min(options.batches, default=0)}
    for name, number in numbers.items():
        if not number > 0:
            raise UserError(f"{name} must be more than 0, got {number}")
    if not options.dtypes:
        raise UserError("--dtypes must be bfloat16, float32 or both, got none")
    if not options.variants or not set(options.variants) <= set(VARIANTS):
        raise UserError(f"--variants must be some of {', '.join(VARIANTS)}, got {' '.join(options.variants) or 'none'}")
    if options.json and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json {options.json} is in no folder that there is: make {options.json.parent} first")


def _items(options: Accelerator) -> list[Item]:
    """What to measure, the most telling first."""
    smaller = {"depths": options.depths, "embed_dim": options.embed_dim}
    network = {name: value for name, value in smaller.items() if value is not None}
    variant, batch, dtype = options.variants[0], options.batches[0], options.dtypes[0]

    def pairs(task: Literal["rates", "timm"], works: list[Comparison]) -> list[Item]:
        measure = {"rates": accelerator_rates.measure, "timm": accelerator_rates.measure_beside_timm}[task]
        arguments = (network, options.seconds) if task == "rates" else (options.seconds,)
        chosen = works if task in options.parts else []
        return [Item(_name(task, work), measure, (work, *arguments), _SHARES[task]) for work in chosen]

    def works(variant: str, batch: int, dtype: Literal["bfloat16", "float32"]) -> list[Comparison]:
        size = {"batch": batch, "image_size": options.image_size}
        return [Comparison(task, variant, dtype=dtype, peer="none", **size) for task in ("train", "infer")]

    items = []
    if "parity" in options.parts:
        arguments = (variant, options.image_size, network)
        items.append(Item("parity", accelerator_parity.measure, arguments, _SHARES["parity"]))
    items += pairs("rates", works(variant, batch, dtype))
    if "pieces" in options.parts:
        arguments = (variant, batch, dtype, options.image_size, network, options.seconds)
        items.append(Item("pieces", accelerator_pieces.measure, arguments, _SHARES["pieces"]))
    if not network:  # timm has the variants alone.
        items += pairs("timm", works(variant, batch, dtype))
    rest = [works(other, batch, dtype) for other in options.variants[1:]]
    rest += [works(variant, other, dtype) for other in options.batches[1:]]
    rest += [works(variant, batch, other) for other in options.dtypes[1:]]
    return items + [item for work in rest for item in pairs("rates", work)]


def _name(task: Literal["rates", "timm"], work: Comparison) -> str:
    what = {"train": "training step", "infer": "inference"}[work.task]
    return f"{'timm, ' if task == 'timm' else ''}{what}, {work.variant}, batch {work.batch}, {work.dtype}"


def measure(items: list[Item], began: float, seconds: float) -> dict:
    """All rows by their tables, and the names of what was left out by the reason; `began` is a time.monotonic()."""
    tables: dict[str, list[dict]] = {}
    left_out: dict[str, list[str]] = {}
    end = began + seconds
    for item in items:
        deadline = min(end, time.monotonic() + item.share * seconds)
        try:
            if time.monotonic() >= end:
                raise OutOfTimeError
            print(f"{time.monotonic() - began:4.0f} s: {item.name}", file=sys.stderr, flush=True)
            for row in rows_of(item.measure, *item.arguments, what=item.name, deadline=deadline):
                tables.setdefault(row.pop("table"), []).append(row)
        except OutOfTimeError:
            left_out.setdefault("out of time", []).append(item.name)
        except UserError as error:
            left_out.setdefault(str(error), []).append(item.name)
    return {"tables": tables, "left_out": left_out}


if __name__ == "__main__":
    run_cli(main)
