"""A spot slice of Cloud TPUs by way of gcloud: asking for it, running machine.sh on its machines, deleting it."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

MACHINE = Path(__file__).with_name("machine.sh")
SSH_FLAGS = [f"--ssh-flag=-o{option}" for option in ("ConnectTimeout=30", "ServerAliveInterval=15")]
# How often to try what is refused, a poll apart. gcloud itself tries a connection ten times; a slice that is being
# suspended cannot be deleted.
CONNECTIONS, DELETIONS = 5, 20
GONE = ("none", "SUSPENDING", "SUSPENDED", "FAILED", "DELETING")


class GcloudError(Exception):
    """What gcloud says when it fails."""


class Setback(Exception):
    """An attempt has ended before the run was done; another may get further."""


class SliceLost(Setback):
    """The slice is gone, or its machines do not do what they are told; the next attempt needs another one."""


def say(text: str) -> None:
    """Prints a line with the time."""
    print(time.strftime("%F %T"), text, flush=True)


class Slice:
    """A queued resource of one node, both with one name, and the machines behind it."""

    def __init__(self, name: str, zone: str, kind: list[str], poll_seconds: float):
        self.name, self._zone, self._kind, self._poll_seconds = name, zone, kind, poll_seconds
        self._last_state: str | None = None
        self.delete_command = f"gcloud compute tpus queued-resources delete {name} --zone={zone} --force"

    def gcloud(self, *arguments: str) -> str:
        """What `gcloud compute tpus` prints.

        Raises:
          GcloudError: it fails.
        """
        command = ["gcloud", "compute", "tpus", *arguments, f"--zone={self._zone}", "--quiet"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"gcloud ended with status {done.returncode}"]
            raise GcloudError("; ".join(lines[-5:]))
        return done.stdout

    def read_state(self) -> str:
        """The state of the queued resource, "none" if it does not exist; says so when it changes.

        A resource that was just accepted may have no state yet.

        Raises:
          GcloudError: gcloud cannot tell.
        """
        listed = json.loads(self.gcloud("queued-resources", "list", "--format=json"))
        found = [resource.get("state", {}) for resource in listed if resource["name"].endswith(f"/{self.name}")]
        state = found[0].get("state", "CREATING") if found else "none"
        if state != self._last_state:
            say(f"slice {self.name}: {json.dumps(found[0]) if state == 'FAILED' else state}")
            self._last_state = state
        return state

    def state(self) -> str:
        """The same; waits while gcloud cannot tell, as when this computer is offline."""
        while True:
            try:
                return self.read_state()
            except GcloudError as error:
                say(f"the slice's state is not known: {error}")
                self.pause()

    def obtain(self) -> None:
        """Waits until the slice is there, for days if need be; asks for one unless that was done.

        Raises:
          Setback: gcloud refuses, or (a SliceLost) the slice is gone before it could be used.
        """
        if self.state() in GONE:
            self.delete()
            try:
                self.gcloud("queued-resources", "create", self.name, f"--node-id={self.name}", *self._kind, "--spot")
            except GcloudError as error:
                raise Setback(f"the slice cannot be created: {error}") from error
        while (state := self.state()) != "ACTIVE":
            if state in GONE:
                raise SliceLost(f"the slice is {state}")
            self.pause()

    def on_all(self, *arguments: str) -> str:
        """What machine.sh prints on all machines; tries again if it fails on one, or one cannot be reached.

        Raises:
          SliceLost: the slice is gone, or this fails for long.
        """
        command = shlex.join(["bash", "-c", MACHINE.read_text(), MACHINE.name, *arguments])
        problem = ""
        for _ in range(CONNECTIONS):
            self.check_active()
            try:
                return self.gcloud("tpu-vm", "ssh", self.name, "--worker=all", *SSH_FLAGS, f"--command={command}")
            except GcloudError as error:
                problem = f"{arguments[0]} fails: {error}"
                say(problem)
                self.pause()
        raise SliceLost(problem)

    def check_active(self) -> None:
        """Returns if the slice is there.

        Raises:
          SliceLost: it is gone.
        """
        if (state := self.state()) != "ACTIVE":
            raise SliceLost(f"the slice is {state}")

    def delete(self) -> None:
        """Deletes the slice if there is one."""
        for _ in range(DELETIONS):
            if self.state() == "none":
                return
            try:
                self.gcloud("queued-resources", "delete", self.name, "--force")
            except GcloudError as error:
                say(f"the slice cannot be deleted yet: {error}")
                self.pause()
        sys.exit(f"error: the slice cannot be deleted and may cost money; do it yourself: {self.delete_command}")

    def pause(self) -> None:
        """Waits until it is time for another look."""
        time.sleep(self._poll_seconds)
