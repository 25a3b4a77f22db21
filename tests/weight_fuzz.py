"""Damaged and forged weight files, by the thousand, and what the readers of weights make of them."""

import bisect
import dataclasses
import io
import itertools
import json
import shutil
import sys
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from small import FIXTURES, TINY, random_variables
from weight_reader import Reader, Target

import gcvit_flax

_FILES_PER_ROUND = 250  # Each with a seed of its own.
_HOSTILE_NAMES = ("../escaped", "/tmp/gcvit_flax_escaped", "a/../../escaped", "..\\escaped", "C:/escaped")


@dataclasses.dataclass
class Report:
    """What a round of damage has shown."""

    seed: int
    files: int = 0
    seconds: float = 0.0
    outcomes: Counter = dataclasses.field(default_factory=Counter)
    found: dict[str, str] = dataclasses.field(default_factory=dict)  # What is wrong, and one file that shows it.

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        found = "".join(f"\n{what}\n  {case}" for what, case in self.found.items()) or " nothing"
        return f"seed {self.seed}: {self.files} files in {self.seconds:.0f} s: {counts}; found:{found}"


def fuzz(folder: Path, *, seconds: float = float("inf"), files: int = sys.maxsize, first_seed: int = 0) -> Report:
    """Reads damaged files in `folder` until `seconds` or `files` are over.

    A file must be refused with one sentence, or give parameters of the shapes of its network: the same as before where
    the file has checksums, and within limits of time and memory.
    """
    targets, report, start = _make_targets(folder / "targets"), Report(first_seed), time.monotonic()
    reader = Reader(folder)

    def read(case: tuple[Target, str, bytes, bool]) -> None:
        if report.files == files or time.monotonic() - start > seconds:
            return
        target, damage, content, forged = case
        outcome = reader.read(target, content, target.checksums and not forged)
        report.files += 1
        report.outcomes[outcome.partition(":")[0]] += 1
        if outcome.startswith("wrong"):
            report.found.setdefault(outcome, f"{target.name}: {damage:.400}")

    try:
        for round_seed in itertools.count(first_seed):
            if report.files == files or time.monotonic() - start > seconds:
                break
            _draw(targets, read, round_seed)
    finally:
        reader.close()
    report.seconds = time.monotonic() - start
    return report


def _draw(targets: list[Target], read: Callable, round_seed: int) -> None:
    by_reader: dict[tuple, list[Target]] = defaultdict(list)
    for target in targets:
        by_reader[target.kind, target.name.endswith("config.json")].append(target)
    groups = [st.sampled_from(group) for group in by_reader.values()]
    chosen = settings(
        max_examples=_FILES_PER_ROUND,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    chosen(seed(round_seed)(given(st.one_of(groups).flatmap(_damaged))(read)))()


def _make_targets(folder: Path) -> list[Target]:
    """The fixtures, a safetensors file, a model folder and stored images."""
    folder.mkdir()
    for path in FIXTURES.glob("micro*"):
        if path.suffix != ".json":
            shutil.copy(path, folder)
    model = folder / "model"
    gcvit_flax.save_model(model, gcvit_flax.create_model(TINY), random_variables(TINY), class_names=["a", "b", "c"])
    gcvit_flax.write_weights(_micro_folder(folder), folder / "micro.safetensors", "official")
    targets = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        inside = name.startswith("model/")
        kind = "folder" if inside else "images" if path.suffix == ".npz" else "weights"
        targets.append(Target(name, path.read_bytes(), kind, inside or zipfile.is_zipfile(path)))
    return targets


def _micro_folder(folder: Path) -> Path:
    gcvit_flax.convert(FIXTURES / "micro.nvlabs.pth.tar", folder.parent / "micro")
    return folder.parent / "micro"


def _damaged(target: Target) -> st.SearchStrategy:
    """Of (the target, the damage in words, the damaged content, whether its checksums fit that)."""
    whole = _changed_bytes(target.content, _structure(target.content)).map(lambda made: (target, *made, False))
    choices = [whole]
    if zipfile.is_zipfile(io.BytesIO(target.content)):
        choices += [_changed_member(target), _renamed_member(target)]
    elif target.name.endswith("config.json"):
        settings_ = json.loads(target.content)
        del settings_["checksum"]
        choices += [_changed_json(settings_).map(lambda made: (target, *made, True))] * 2
    elif target.kind == "folder":
        choices.append(whole.map(lambda made: (*made[:-1], True)))
    return st.one_of(choices)


def _changed_bytes(content: bytes, structure: list[tuple[int, int]]) -> st.SearchStrategy:
    """Content cut off, or with a few bytes changed, half of them in `structure`, the parts that are no numbers."""
    ends = list(itertools.accumulate(end - start for start, end in structure))

    def in_structure(index: int) -> int:
        part = bisect.bisect_right(ends, index)
        return structure[part][1] - (ends[part] - index)

    position = st.integers(0, max(len(content) - 1, 0))
    if ends and ends[-1]:
        position = st.one_of(position, st.integers(0, ends[-1] - 1).map(in_structure))

    def change(changes: list[tuple[int, bytes]]) -> tuple[str, bytes]:
        changed = bytearray(content)
        for start, new in changes:
            changed[start : start + len(new)] = new
        return f"bytes {changes}", bytes(changed[: len(content)])

    flip = position.flatmap(
        lambda at: st.sampled_from([1 << bit for bit in range(8)]).map(
            lambda bit: (at, bytes([content[at] ^ bit] if content else b""))
        )
    )
    new = st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\0" * 64]))
    part = st.tuples(position, st.integers(1, 64)).map(lambda found: content[found[0] : found[0] + found[1]])
    changes = st.lists(
        st.one_of(flip, flip, st.tuples(position, new), st.tuples(position, part)), min_size=1, max_size=4
    )
    cut = st.one_of(position, st.integers(max(len(content) - 64, 0), len(content))).map(
        lambda size: (f"cut to {size} bytes", content[:size])
    )
    return st.one_of(changes.map(change), changes.map(change), changes.map(change), cut)


def _structure(content: bytes) -> list[tuple[int, int]]:
    """Where a file's own words are, (start, end): names, shapes, lengths and addresses, but no tensors' numbers."""
    numbers: list[tuple[int, int]] = []
    if content[:8] == b"\x89HDF\r\n\x1a\n":
        with h5py.File(io.BytesIO(content)) as file:
            file.visititems(lambda _, item: numbers.extend(_storage(item)))
    elif zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                start = info.header_offset + 30 + len(info.filename) + 64
                numbers.append((start, max(start, info.header_offset + info.compress_size)))
    elif content[8:10] == b'{"':
        numbers.append((8 + int.from_bytes(content[:8], "little"), len(content)))
    bounds = [0, *itertools.chain(*sorted(numbers)), len(content)]
    return [(start, end) for start, end in zip(bounds[::2], bounds[1::2], strict=True) if start < end]


def _storage(item: Any) -> Iterator[tuple[int, int]]:
    if isinstance(item, h5py.Dataset) and item.id.get_offset():
        yield item.id.get_offset(), item.id.get_offset() + item.id.get_storage_size()


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def _changed_member(target: Target) -> st.SearchStrategy:
    """An archive with one changed member, and checksums that fit."""
    members = _members(target.content)
    likely = [name for name in members if name.endswith((".pkl", ".json", ".h5"))] or list(members)

    def changed(name: str) -> st.SearchStrategy:
        choices = [_changed_bytes(members[name], _structure(members[name]))]
        if name == "config.json":
            choices.append(_changed_json(json.loads(members[name])))
        return st.one_of(choices).map(
            lambda made: (target, f"{name}: {made[0]}", _zipped(members | {name: made[1]}), True)
        )

    return st.one_of(st.sampled_from(likely), st.sampled_from(list(members))).flatmap(changed)


def _renamed_member(target: Target) -> st.SearchStrategy:
    members = _members(target.content)
    names = st.one_of(st.sampled_from(_HOSTILE_NAMES), st.sampled_from(list(members)), st.text(max_size=8))

    def rename(pair: tuple[str, str]) -> tuple[Target, str, bytes, bool]:
        old, new = pair
        renamed = {(new if name == old else name): content for name, content in members.items()}
        return target, f"{old} renamed to {new!r}", _zipped(renamed), True

    return st.tuples(st.sampled_from(list(members)), names).map(rename)


def _changed_json(tree: Any) -> st.SearchStrategy:
    """JSON with one entry, at any depth, replaced."""
    values = st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), _EDGES),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=2)),
        max_leaves=6,
    )

    def change(made: tuple[tuple, Any]) -> tuple[str, bytes]:
        place, value = made
        return f"{'/'.join(map(str, place))} = {value!r:.200}", json.dumps(_replaced(tree, place, value)).encode()

    return st.tuples(st.sampled_from(list(_places(tree))), values).map(change)


_EDGES = st.sampled_from([0, -1, 1 << 31, 1 << 63, 10**30, 10**400, 1e300, [10**9] * 4, [[10**6, 10**6]] * 4, "../x"])


def _places(tree: Any, place: tuple = ()) -> Iterator[tuple]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield (*place, key)
        yield from _places(value, (*place, key))


def _replaced(tree: Any, place: tuple, value: Any) -> Any:
    if not place:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[place[0]] = _replaced(copy[place[0]], place[1:], value)
    return copy
