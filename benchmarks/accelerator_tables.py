"""The results of `benchmarks.accelerator` as Markdown."""

from typing import Any

from benchmarks.accelerator_pieces import TIMES

_TASKS = {"train": "training step", "infer": "inference"}
_WORK = ("", "variant", "batch", "type")

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # What stands above it, its head and its cells.


def describe(results: dict[str, Any]) -> str:
    """Every table that has rows, with what was measured on which machine, and what was left out."""
    tables = results["tables"]
    machine = tables["machine"][0]
    text = (
        f"Measured on {machine['devices']} x {machine['device']}, {results['date']}, {machine['versions']}:\n\n"
        f"```sh\n{results['command']}\n```\n"
    )
    shown = {"parity": _parity, "rates": _rates, "timm": _timm, "pieces": _pieces}
    for name, show in shown.items():
        if name in tables:
            title, head, rows = show(tables[name])
            lines = [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]
            text += "\n".join(["", f"{title}:", "", *lines, ""])
    if left_out := results["left_out"]:
        text += "\n".join(["", "Left out:", "", *(f"- {'; '.join(names)}: {why}" for why, names in left_out.items())])
    return text.rstrip("\n")


def _parity(rows: list[dict]) -> Table:
    depths = ", ".join(map(str, rows[0]["depths"]))
    title = (
        f"Largest differences from the CPU in float32, as shares of its largest value ({depths} blocks in the levels)"
    )
    head = ("type", "precision of products", "logits", "gradients", "of the parameter that differs most")

    def cells(r: dict) -> tuple[str, ...]:
        worst = f"{r['worst_gradient']:.1e} (`{r['worst_parameter']}`)"
        return r["dtype"], r["precision"], f"{r['logits']:.1e}", f"{r['gradients']:.1e}", worst

    return title, head, [cells(r) for r in rows]


def _rates(rows: list[dict]) -> Table:
    def cells(r: dict) -> tuple[str, ...]:
        share = "" if r["utilization"] is None else f"{r['utilization']:.1%}"
        memory, first = f"{r['peak_memory_gib']:.2f} GiB", f"{r['first_call_seconds']:.0f} s"
        return *_work(r), _number(r["images_per_second"]), f"{r['milliseconds']:.2f} ms", memory, share, first

    head = (*_WORK, "images/s", "time", "peak memory", "share of peak FLOP/s", "first call")
    return "Ours, for each device", head, [cells(r) for r in rows]


def _timm(rows: list[dict]) -> Table:
    def cells(r: dict) -> tuple[str, ...]:
        memory = f"{r['ours_peak_memory_gib']:.2f} and {r['timm_peak_memory_gib']:.2f} GiB"
        return *_work(r), _number(r["ours"]), _number(r["timm"]), f"{r['ratio']:.2f}", memory

    head = (*_WORK, "ours, images/s", "timm, images/s", "ratio", "peak memory, ours and timm")
    return f"Beside {rows[0]['what']}, in turns, for each device", head, [cells(r) for r in rows]


def _pieces(rows: list[dict]) -> Table:
    first = rows[0]
    title = (
        f"Milliseconds of pieces of {first['variant']}, batch {first['batch']}, {first['dtype']}, ours and with plain "
        f"kernels (an empty call takes {first['empty_call']:.3f})"
    )
    head = ("piece", "forward, ours", "plain", "gradients, ours", "plain")
    return title, head, [(r["piece"], *(f"{r[name]:.3f}" if name in r else "" for name in TIMES)) for r in rows]


def _work(row: dict) -> tuple[str, ...]:
    return _TASKS[row["task"]], row["variant"].removeprefix("gcvit_"), str(row["batch"]), row["dtype"]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
