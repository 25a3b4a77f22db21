"""examples/cloud_tpu on a stand-in for Google's cloud, whose machines are folders of this one."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import ROOT, read_metrics

pytestmark = pytest.mark.programs

SUPERVISE = ROOT / "examples" / "cloud_tpu" / "supervise.py"
REPOSITORY = "https://example.org/gcvit_flax"
# What a machine's setup downloads: a program that the test has written, and an empty bucket.
TOOLS = {
    "git": 'echo "$*" >> "$CLOUD/git"; if [ "$1" = clone ]; then mkdir "$4"; fi',
    "python3": 'if [ "$3" = venv ]; then mkdir -p .venv/bin && ln -s "$CLOUD/trainer" .venv/bin/gcvit-train; fi',
    "mountpoint": 'test -e "$2/mounted"',
    "gcsfuse": 'test "$4" = my-bucket && touch "$5/mounted"',
}
# Counts the starts on a machine, and ends a run.
ATTEMPT = "echo once >> ~/attempts; attempt=$(wc -l < ~/attempts)"
DONE = 'echo "done: the best model is here" && exit'
# Waits for a file; the hang-up that ends a connection would end it.
WAITING = """
echo once >> "$CLOUD/starts"
echo "run: steps 1 to 8 of 8"
while ! [ -e "$CLOUD/finish" ]; do sleep 0.05; done
[ $MACHINE = 1 ] || echo "done: the best model is in runs/finetune/model"
"""


class Cloud:
    """The stand-in's folder, and supervisors that use it."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self._supervisors = folder, []
        self._environment = {**environment, "CLOUD": str(folder), "MACHINES": "2"}
        self._write("path/gcloud", f'exec {sys.executable} {Path(__file__).with_name("gcloud.py")} "$@"')
        for name, text in TOOLS.items():
            self._write(f"bin/{name}", text)

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def trains(self, text: str) -> None:
        """What gcvit-train does on the machines, in bash."""
        self._write("trainer", f"echo $$ > ~/trainer.pid\n{text}")

    def says(self, name: str, text: str) -> None:
        """Changes what the stand-in reads."""
        (self.folder / name).write_text(text)

    def count(self, name: str) -> int:
        path = self.folder / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    def start(self, *training, options=(), program=None, **variables) -> subprocess.Popen:
        """Starts the supervisor, or `program`, which is that of another checkout."""
        command = [program] if program else [SUPERVISE, "--repository", REPOSITORY]
        command += ["--zone", "zone-a", "--bucket", "my-bucket", "--poll-seconds", "0.1", *options]
        supervisor = subprocess.Popen(
            [sys.executable, *map(str, [*command, "--", *training])],
            env={**self._environment, "PATH": f"{self.folder / 'path'}:{os.environ['PATH']}", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._supervisors.append(supervisor)
        return supervisor

    def end(self) -> None:
        for supervisor in self._supervisors:
            supervisor.kill()
        for path in self.folder.glob("slice-*/machine-*/trainer.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(int(path.read_text())), signal.SIGKILL)


@pytest.fixture
def cloud(environment, tmp_path):
    cloud = Cloud(tmp_path / "cloud", environment)
    yield cloud
    cloud.end()


def output(supervisor: subprocess.Popen, status: int = 0) -> str:
    """What the supervisor printed, its last words last, once it has ended with `status`."""
    printed, error = supervisor.communicate(timeout=300)
    assert supervisor.returncode == status, printed + error
    return printed + error


def wait_until(condition, supervisor: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert supervisor.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_a_preempted_run_is_done_on_another_slice(cloud, finetune, tmp_path):
    cloud.says("more", "")
    cloud.trains(f'exec {sys.executable} {finetune[0]} "$@" $(< "$CLOUD/more")')
    workdir = tmp_path / "run"
    supervisor = cloud.start(*finetune[1:], "--epochs", "300", "--workdir", workdir, MACHINES="1")
    wait_until(lambda: any(record["step"] == 3 for record in read_metrics(workdir)), supervisor)

    supervisor.send_signal(signal.SIGSTOP)
    machine = cloud.folder / "slice-1" / "machine-0"  # What it does first when Google takes it back:
    os.killpg(os.getpgid(int((machine / "trainer.pid").read_text())), signal.SIGTERM)
    status = machine / "run" / "status"
    wait_until(lambda: status.exists() and status.read_text() == "0\n", supervisor)
    saved = int(re.search(r"saved at step (\d+)", (machine / "run" / "log").read_text())[1])
    cloud.says("more", f"--max-steps {saved + 2}")
    cloud.says("states", "SUSPENDING\nSUSPENDING\nSUSPENDED")
    supervisor.send_signal(signal.SIGCONT)

    printed = output(supervisor)
    assert f"run: steps {saved + 1} to {saved + 2} of" in printed
    assert f"done: the best model is in {workdir}/model" in printed
    assert [record["step"] for record in read_metrics(workdir) if "train_loss" in record] == list(range(1, saved + 3))
    assert cloud.count("creations") == cloud.count("deletions") == 2


def test_the_training_outlives_the_supervisor(cloud):
    cloud.trains(WAITING)
    first = cloud.start("finetune")
    wait_until(lambda: cloud.count("starts") == 2, first)
    first.send_signal(signal.SIGTERM)
    assert "queued-resources delete gcvit --zone=zone-a --force" in output(first, status=130)
    other = cloud.start("finetune", "--seed", "1")
    assert "error: the slice gcvit is training with other arguments" in output(other, status=1)

    again = cloud.start("finetune")
    assert any("run: steps" in line for line in again.stdout)
    cloud.says("finish", "")
    assert "done: the best model" in output(again)
    assert cloud.count("starts") == 2 and cloud.count("creations") == cloud.count("deletions") == 1


def test_an_error_of_the_users_ends_it(cloud, finetune, tmp_path):
    cloud.trains(f'exec {sys.executable} {finetune[0]} "$@"')
    for mistake, expected in ((["--data", "folder:nowhere"], "error: nowhere is not a folder"), (["--sed"], "--sed")):
        supervisor = cloud.start("finetune", "--workdir", tmp_path / "run", *mistake, MACHINES="1")
        printed = output(supervisor, status=1)
        assert expected in printed and printed.endswith("which is to be corrected; the slice is deleted\n")
    assert cloud.count("creations") == cloud.count("deletions") == 2


def test_an_error_is_the_users_unless_a_machine_was_lost(cloud):
    other = 'echo "error: process 1 (on b) has failed: see its own message" >&2\nexit 1'
    cloud.trains(f'[ $MACHINE = 1 ] && echo "error: a mistake" && exit 1\n{other}')
    assert "the error above, which is to be corrected" in output(cloud.start("finetune"), status=1)
    assert cloud.count("creations") == 1
    cloud.trains(f"{ATTEMPT}\n[ $attempt = 4 ] && {DONE}\n[ $attempt$MACHINE = 21 ] && kill -9 $$\n{other}")
    assert "done: the best model is here" in output(cloud.start("finetune"))


def test_an_error_that_does_not_come_again_ends_nothing(cloud):
    cloud.trains(f'{ATTEMPT}\n[ $attempt = 2 ] && {DONE}\necho "error: something odd"\nexit 1')
    assert "done: the best model is here" in output(cloud.start("finetune"))
    assert cloud.count("creations") == 1


def test_errors_with_progress_in_between_end_nothing(cloud):
    began = 'echo "run: steps ${attempt}0 to 99 of 99"'
    cloud.trains(f'{ATTEMPT}\n{began}\n[ $attempt = 4 ] && {DONE}\necho "error: something odd"\nexit 1')
    assert "done: the best model is here" in output(cloud.start("finetune"))
    assert cloud.count("creations") == 1


def test_a_store_that_is_down_is_no_error_of_the_users(cloud):
    down = 'echo "error: gs://my-bucket cannot be reached (timed out): check the network" >&2\nexit 1'
    cloud.trains(f"{ATTEMPT}\n[ $attempt = 4 ] && {DONE}\n{down}")
    assert "done: the best model is here" in output(cloud.start("finetune"))
    assert cloud.count("creations") == cloud.count("deletions") == 1
    cloud.trains(down)
    printed = output(cloud.start("finetune", options=["--attempts", "3"]), status=1)
    assert "error: given up after 3 attempts" in printed and cloud.count("creations") == cloud.count("deletions") == 2


def test_a_process_that_dies_costs_no_slice(cloud):
    cloud.trains(f"{ATTEMPT}\n[ $attempt = 3 ] && {DONE}\n[ $MACHINE = 0 ] && kill -9 $$\nexit 134")
    assert "done: the best model is here" in output(cloud.start("finetune"))
    assert cloud.count("creations") == cloud.count("deletions") == 1


def test_a_slice_whose_machines_do_not_answer_is_replaced(cloud):
    cloud.says("silent", "1")
    cloud.trains(DONE)
    assert "setup fails: ERROR: could not connect" in output(cloud.start("finetune"))
    assert cloud.count("creations") == cloud.count("deletions") == 2


def test_what_machines_say_need_not_be_text(cloud):
    more = "seq 30"  # More lines than are shown of a log's end.
    cloud.trains(f"printf '\\377\\0\\n'\necho 'done: the best model is here'\n{more}")
    assert "done: the best model is here" in output(cloud.start("finetune"))


def test_a_slice_may_have_no_state_at_first(cloud):
    cloud.says("future", "no state\nempty state\nACTIVE")
    cloud.trains(DONE)
    assert "slice gcvit: CREATING" in output(cloud.start("finetune"))


def test_the_machines_install_the_commit_of_the_checkout(cloud, tmp_path):
    checkout = shutil.copytree(SUPERVISE.parent, tmp_path / "checkout")

    def git(*arguments) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *map(str, arguments)]
        return subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()

    def ends(expected: str) -> None:
        printed = output(cloud.start("finetune", program=checkout / "supervise.py"), status=1)
        assert expected in printed and printed.startswith("error: ") and printed.count("\n") == 1

    cloud.trains(DONE)
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--no-verify", "--message", "a")
    ends("no git checkout with a remote")
    git("remote", "add", "origin", checkout)
    ends(f"{checkout} is no https:// address")
    git("remote", "set-url", "origin", REPOSITORY)
    ends(f"is not on {REPOSITORY}: push it")
    assert not cloud.count("creations")

    git("update-ref", "refs/remotes/origin/main", "HEAD")
    assert "done: " in output(cloud.start("finetune", program=checkout / "supervise.py"))
    asked = [f"clone --quiet {REPOSITORY} gcvit_flax", f"-C gcvit_flax checkout --quiet {git('rev-parse', 'HEAD')}"]
    assert (cloud.folder / "git").read_text().splitlines() == 2 * asked


def test_a_slice_that_cannot_be_had_ends_it(cloud):
    cloud.says("refusal", "ERROR: RESOURCE_EXHAUSTED: Quota limit 'TPUV5s' has been exceeded.\n- more")
    printed = output(cloud.start("finetune", options=["--attempts", "2"]), status=1)
    assert "error: given up after 2 attempts" in printed and printed.count("Quota limit") == 3
    assert cloud.count("creations") == 2
    cloud.says("refusal", "")
    cloud.says("future", "WAITING_FOR_RESOURCES\nFAILED")
    printed = output(cloud.start("finetune", options=["--attempts", "2"]), status=1)
    assert printed.endswith("the last one: the slice is FAILED\n")
    assert cloud.count("creations") == 4 and cloud.count("deletions") == 2


def test_attempts_are_counted_from_the_last_progress(cloud):
    crash = f'{ATTEMPT}\necho "run: steps {{first}} to 99 of 99"\n[ $attempt -lt 4 ] && exit 134\n'
    cloud.trains(crash.format(first="1"))
    assert "error: given up after 2 attempts" in output(cloud.start("finetune", options=["--attempts", "2"]), status=1)
    assert cloud.count("creations") == cloud.count("deletions") == 1
    cloud.trains(crash.format(first="${attempt}0") + 'echo "runs/finetune: this run is done, at step 99"')
    assert "this run is done" in output(cloud.start("finetune", options=["--attempts", "2"]))
    assert cloud.count("creations") == cloud.count("deletions") == 2


def test_a_network_that_fails_for_a_while_costs_no_slice(cloud):
    cloud.trains(WAITING)
    cloud.says("failures", "1")
    assert "error: gcloud cannot list the slices of zone-a" in output(cloud.start("finetune"), status=1)
    supervisor = cloud.start("finetune")
    wait_until(lambda: cloud.count("starts") == 2, supervisor)
    cloud.says("failures", "5")
    wait_until(lambda: (cloud.folder / "failures").read_text() == "0", supervisor)
    cloud.says("finish", "")
    assert "the network is unreachable" in output(supervisor)
    assert cloud.count("starts") == 2 and cloud.count("creations") == 1
