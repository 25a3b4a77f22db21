"""A stand-in for `gcloud compute tpus`: slices are folders in $CLOUD, and commands for their machines run here.

In $CLOUD, `states` has the queued resource's present state in its first line, and below it those to come, of which
"no state" and "empty state" are how it is listed before it has one; `future` is what it has for a new one; `refusal` is
why none can be created; `silent` is the number of a slice that does not answer; `failures` is how many of the next
commands fail as if the network did; `creations` and `deletions` have a line for each; `bin` has what machines find on
their PATH, and `git` what they asked of git.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["CLOUD"])
STATES = CLOUD / "states"


def main(service: str, verb: str, *arguments: str) -> None:
    options = dict(word.removeprefix("--").partition("=")[::2] for word in arguments if word.startswith("--"))
    name = next((word for word in arguments if not word.startswith("--")), None)
    assert options["zone"] == "zone-a" and "quiet" in options and name in (None, "gcvit"), arguments
    if failures := int(read("failures") or 0):
        (CLOUD / "failures").write_text(str(failures - 1))
        sys.exit("ERROR: the network is unreachable")
    COMMANDS[service, verb](options)


def read(name: str) -> str:
    path = CLOUD / name
    return path.read_text() if path.exists() else ""


def note(name: str) -> None:
    with (CLOUD / name).open("a") as file:
        file.write("once\n")


def list_resources(options: dict[str, str]) -> None:
    found = []
    if STATES.exists():
        state, *later = STATES.read_text().splitlines()
        known = {"no state": {}, "empty state": {"state": {}}}.get(state, {"state": {"state": state}})
        found = [{"name": "projects/p/locations/zone-a/queuedResources/gcvit", **known}]
        if later:
            STATES.write_text("\n".join(later))
    other = {"name": "projects/p/locations/zone-a/queuedResources/other-gcvit", "state": {"state": "FAILED"}}
    print(json.dumps([other, *found]))


def create(options: dict[str, str]) -> None:
    assert {"node-id", "accelerator-type", "runtime-version", "spot"} <= options.keys()
    note("creations")
    if STATES.exists():
        sys.exit("ERROR: ALREADY_EXISTS")
    if refusal := read("refusal"):
        sys.exit(refusal)
    STATES.write_text(read("future") or "WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE")


def delete(options: dict[str, str]) -> None:
    state = STATES.read_text().splitlines()[0]
    if state == "SUSPENDING":
        sys.exit("ERROR: FAILED_PRECONDITION: it is being suspended")
    assert "force" in options
    STATES.unlink()
    note("deletions")


def ssh(options: dict[str, str]) -> None:
    slices = len(read("creations").splitlines())
    if read("states") != "ACTIVE" or read("silent") == str(slices):
        sys.exit("ERROR: could not connect")
    assert options["worker"] == "all"
    for machine in range(int(os.environ["MACHINES"])):
        home = CLOUD / f"slice-{slices}" / f"machine-{machine}"
        home.mkdir(parents=True, exist_ok=True)
        variables = {"HOME": str(home), "MACHINE": str(machine), "PATH": f"{CLOUD / 'bin'}:{os.environ['PATH']}"}
        process = subprocess.Popen(
            ["bash", "-c", options["command"]], env={**os.environ, **variables}, start_new_session=True
        )
        status = process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGHUP)  # The connection's end reaches what has not left its group.
        if status:
            sys.exit(f"ERROR: status {status}")


COMMANDS = {
    ("queued-resources", "list"): list_resources,
    ("queued-resources", "create"): create,
    ("queued-resources", "delete"): delete,
    ("tpu-vm", "ssh"): ssh,
}

if __name__ == "__main__":
    assert sys.argv[1:3] == ["compute", "tpus"]
    main(*sys.argv[3:])
