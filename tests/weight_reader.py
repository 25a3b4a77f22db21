"""A process that reads weight files which may be damaged or forged, under limits of time and memory.

Started as a program, this file is that process: it takes a line of JSON per file and answers with one.
"""

import dataclasses
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

NEEDS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
SECONDS_PER_FILE = 20
BYTES_PER_FILE = 2**29  # That reading a file of some 1.3 MB may add to the process.


@dataclasses.dataclass(frozen=True)
class Target:
    """A whole file to damage, in a format that a reader takes."""

    name: str  # Relative to the folder of targets.
    content: bytes = dataclasses.field(repr=False)
    kind: str  # "weights", "images" or "folder", a model folder that the file is in.
    checksums: bool  # Whether every byte that matters has one.


class Reader:
    """A process that reads files, started again when one has ended it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, None
        self._targets, self._changed = folder / "targets", folder / "changed"
        shutil.copytree(self._targets, self._changed)

    def read(self, target: Target, content: bytes, same: bool) -> str:
        """ "refused", "the same", "other values", or "wrong: WHAT"; `same` says that no value may have changed."""
        changed = {self._changed / target.name: content}
        if target.kind == "folder" and not same:  # Nor may the checksums of a model folder tell.
            changed |= {path: None for path in (self._changed / "model").glob("params-*/checksums.txt")}
        whole = {path: path.read_bytes() for path in changed}
        for path, new in changed.items():
            path.unlink() if new is None else path.write_bytes(new)
        try:
            question = {"path": str(self._changed / target.name), "name": target.name, "kind": target.kind}
            return self._ask({**question, "same": same})
        finally:
            for path, old in whole.items():
                path.write_bytes(old)

    def close(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def _ask(self, question: dict) -> str:
        if self._process is None:
            environment = os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(self._temporary())}
            command = [sys.executable, __file__, str(self._targets)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, **pipes, env=environment, cwd=self._temporary())
            assert self._process.stdout.readline() == b"ready\n"
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS_PER_FILE)
        answer = self._process.stdout.readline() if ready else b""
        if answer:
            return json.loads(answer)
        self.close()
        status, self._process = self._process.returncode, None
        return f"wrong: the process ended with {status}" if ready else f"wrong: more than {SECONDS_PER_FILE} s"

    def _temporary(self) -> Path:
        path = self._folder / "temporary"
        path.mkdir(exist_ok=True)
        return path


def _serve(targets: Path) -> None:
    expected = _Expected(targets)
    for path in targets.rglob("*"):
        if path.is_file():
            expected.of(str(path.relative_to(targets)))
    written: list[str] = []
    sys.addaudithook(lambda event, details: written.extend(_written(event, details)))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + 4 * BYTES_PER_FILE  # Of addresses, many of which are never used.
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        before = _peak_memory()
        written.clear()
        outcome = _outcome(expected, question)
        outside = [path for path in map(os.path.abspath, written) if not path.startswith(os.environ["TMPDIR"])]
        added = _peak_memory(reset=False) - before
        if added > BYTES_PER_FILE:
            outcome = f"wrong: {outcome} with {added >> 20} MiB"
        if outside:
            outcome = f"wrong: {outcome}, and wrote {outside[0]}"
        print(json.dumps(outcome), flush=True)


def _outcome(expected: "_Expected", question: dict) -> str:
    from gcvit_flax.errors import UserError

    try:
        shapes, found = _read(Path(question["path"]), question["kind"])
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > 6000:
            return f"wrong: a sentence of several lines, {str(error)[:200]}"
        return "wrong: out of memory" if _is_memory_error(error) else "refused"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = next((f for f in reversed(place) if "gcvit_flax/" in f.filename), place[-1])
        return f"wrong: {type(error).__name__} at {Path(ours.filename).name}:{ours.lineno}: {str(error)[:150]}"
    if shapes != {name: values.shape for name, values in found.items()}:
        return "wrong: shapes that are not the network's"
    wanted = expected.of(question["name"])
    same = wanted.keys() == found.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)
    if question["same"] and not same:
        return "wrong: other values under right checksums"
    return "the same" if same else "other values"


def _is_memory_error(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, MemoryError) or _is_memory_error(error.__context__))


def _read(path: Path, kind: str) -> tuple[dict[str, tuple], dict[str, np.ndarray]]:
    """The shapes that arrays should have, and the arrays."""
    from gcvit_flax.model.tree import parameter_shapes
    from gcvit_flax.weights.model_folder import read_folder
    from gcvit_flax.weights.read import read_config, read_parameters
    from gcvit_flax.weights.recognize import open_weight_file
    from gcvit_flax.weights.verify import stored_images

    if kind == "images":
        images = stored_images(path)
        return {"images": images.shape}, {"images": images}
    if kind == "folder":
        folder = next(parent for parent in path.parents if parent.name == "model")
        config, _, flat, _ = read_folder(folder)
    else:
        with open_weight_file(path) as opened:
            config, names = read_config(opened, path, None)
            flat, _ = read_parameters(opened, path, names, allow_nonfinite=True)
    return {name: leaf.shape for name, leaf in parameter_shapes(config).items()}, flat


class _Expected:
    """What the whole targets hold, each read once."""

    def __init__(self, targets: Path) -> None:
        self._targets, self._known = targets, {}

    def of(self, name: str) -> dict[str, np.ndarray]:
        key = "model/config.json" if name.startswith("model/") else name
        if key not in self._known:
            path = self._targets / key
            kind = (
                "folder"
                if key != name or key.startswith("model/")
                else "images"
                if path.suffix == ".npz"
                else "weights"
            )
            self._known[key] = _read(path, kind)[1]
        return self._known[key]


def _written(event: str, details: tuple) -> Iterator[str]:
    """The paths that an event of Python's audit writes to, makes or removes."""
    if event == "open" and isinstance(details[0], str | bytes | os.PathLike):
        if details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            yield os.fsdecode(details[0])
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
        yield os.fsdecode(details[0])
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"):
        yield f"{event} {details}"


def _peak_memory(reset: bool = True) -> int:
    """The most resident memory so far, in bytes, or since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
