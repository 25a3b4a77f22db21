"""Several hosts, here processes of one machine, through the real command line."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from small import free_address, read_metrics, wait_until

pytestmark = pytest.mark.programs

# Everything that is random but dropout follows the example's place in the global batch.
EVERYTHING = [
    *("--batch-size", "8", "--dropout-rate", "0", "--ema-decay", "0.9", "--mixup", "0.8", "--cutmix", "1"),
    *("--epochs", "2", "--devices"),
]


@pytest.fixture
def start_python(environment, tmp_path, heeded_signals):
    """Starts Python with each of several argument lists, and kills at the end what still runs."""
    processes = []

    def start(*commands) -> list[subprocess.Popen]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        started = [
            subprocess.Popen([sys.executable, *map(str, command)], cwd=tmp_path, env=environment, **pipes)
            for command in commands
        ]
        processes.extend(started)
        return started

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def start_hosts(finetune, start_python):
    """Starts train.py with other options on each of several hosts, which find each other."""

    def start(*options_of_hosts) -> list[subprocess.Popen]:
        hosts = ["--coordinator", free_address(), "--num-processes", len(options_of_hosts), "--process-id"]
        commands = [[*finetune, *EVERYTHING, "2", *hosts, number] for number in range(len(options_of_hosts))]
        return start_python(
            *([*command, *options] for command, options in zip(commands, options_of_hosts, strict=True))
        )

    return start


@pytest.fixture
def start_scripts(start_python):
    """Starts a script on two hosts that have found each other."""

    def start(script: str) -> list[subprocess.Popen]:
        address = free_address()
        join = "from gcvit_flax.training import processes\nprocesses.join({!r}, 2, {})\n"
        return start_python(*(["-c", join.format(address, number) + script] for number in range(2)))

    return start


def end(processes: list[subprocess.Popen], status: int = 0) -> list[str]:
    """What the processes said, once all have ended with `status`."""
    outputs = ["".join(process.communicate(timeout=300)) for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), outputs
    return outputs


def numbers(workdir, name: str) -> list[float]:
    return [record[name] for record in read_metrics(workdir) if name in record]


def test_two_hosts_of_two_devices_are_one_of_four_and_one_of_one(start_hosts, run_command, finetune, tmp_path):
    first, second = end(start_hosts(["--workdir", "hosts"], ["--workdir", "hosts"]))
    assert "on 4 cpu devices of 2 processes" in first and "best model is in hosts/model" in first
    assert "model" not in second and "step" not in second
    run_command(*finetune, *EVERYTHING, "4", "--workdir", "four")
    run_command(*finetune, *EVERYTHING, "1", "--workdir", "one", "--max-steps", "3")
    run_command(*finetune, *EVERYTHING, "4", "--workdir", "one")  # A checkpoint goes on with other devices.
    for name, count, tolerance in (
        ("train_loss", 6, 1e-5),
        ("val_loss", 2, 1e-5),
        ("ema_val_loss", 2, 1e-5),
        ("val_count", 2, 0),
    ):
        expected = numbers(tmp_path / "four", name)
        assert len(expected) == count
        for other in ("hosts", "one"):
            np.testing.assert_allclose(numbers(tmp_path / other, name), expected, rtol=tolerance, err_msg=name)


def test_sigterm_on_one_host_stops_both_at_one_step(start_hosts, run_command, finetune, tmp_path):
    processes = start_hosts(["--epochs", "300"], ["--epochs", "300"])
    wait_for_step(processes[0], tmp_path, 3)
    processes[1].send_signal(signal.SIGTERM)
    first, _ = end(processes)
    step = int(first.split("saved at step ")[1].split()[0])
    assert (tmp_path / "runs" / "finetune" / "checkpoints" / str(step)).is_dir()
    again = run_command(*finetune, *EVERYTHING, "4", "--epochs", "300", "--max-steps", step + 1)
    assert f"steps {step + 1} to {step + 1} of" in again.stdout


def wait_for_step(process: subprocess.Popen, tmp_path, step: int) -> None:
    metrics = tmp_path / "runs" / "finetune" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and f'"step": {step}' in metrics.read_text(), process)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_to_every_process_and_worker_saves(signum, status, start_hosts, tmp_path):
    processes = start_hosts(*[["--epochs", "300", "--workers", "1"]] * 2)
    wait_for_step(processes[0], tmp_path, 3)
    for process in processes:
        os.killpg(process.pid, signum)
    first, second = end(processes, status)
    step = int(first.split("saved at step ")[1].split()[0])
    assert (tmp_path / "runs" / "finetune" / "checkpoints" / str(step)).is_dir()
    assert "Traceback" not in first + second


@pytest.mark.parametrize("lost", [1, pytest.param("stopped", marks=pytest.mark.soak)])
def test_a_process_that_dies_in_mid_step_is_named_by_the_others(lost, start_hosts, tmp_path):
    """Killed, so that its connection closes; or stopped (the system's SIGSTOP), so that nothing but silence tells."""
    processes = start_hosts(*[["--epochs", "300"]] * 2)
    wait_for_step(processes[0], tmp_path, 3)
    processes[1].send_signal(signal.SIGSTOP if lost == "stopped" else signal.SIGKILL)
    output, errors = processes[0].communicate(timeout=300)
    assert processes[0].returncode == 1, output + errors
    lines = [line for line in errors.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith(f"error: process 1 (on {socket.gethostname()}) has ended"), errors
    assert "run the same command again in all processes" in lines[0]


def test_without_the_first_process_the_others_end(start_hosts, tmp_path):
    processes = start_hosts(*[["--epochs", "300"]] * 2)
    wait_for_step(processes[0], tmp_path, 3)
    processes[0].kill()
    processes[1].communicate(timeout=300)
    assert processes[1].returncode != 0


def test_hosts_that_do_not_share_the_workdir_are_told(start_hosts, tmp_path):
    (tmp_path / "third").mkdir()  # It may be there, or even hold an earlier attempt.
    outputs = end(start_hosts(["--workdir", "first"], ["--workdir", "second"], ["--workdir", "third"]), status=1)
    for output in outputs:
        errors = [line for line in output.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "do not share the workdir" in errors[0] and "process 1, 2)" in errors[0], output
        assert "Traceback" not in output
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [".lock"]
    assert not (tmp_path / "second").exists()


def test_a_bug_in_one_host_ends_the_others(start_scripts):
    """A failure that is nobody's mistake: the failing process shows its traceback, and the other does not wait."""
    first, second = end(
        start_scripts("""
with processes.raising_together():
    if processes.is_first():
        raise KeyError("a bug")
"""),
        status=1,
    )
    assert "KeyError: 'a bug'" in first and "process 0 failed" in second


def test_hosts_agree_on_the_checkpoint_before_a_damaged_one(start_scripts, tmp_path):
    script = """
import jax, numpy as np
from etils import epath
from gcvit_flax.training.checkpoints import Checkpoints
from gcvit_flax.training.steps import TrainState

def state_at(step):
    return TrainState(np.int32(step), None, {"kernel": np.full(50, step, np.float32)}, None, {}, None)

folder = epath.Path("checkpoints").absolute()
with Checkpoints(folder, keep=3) as checkpoints:
    for step in (1, 2, 3):
        checkpoints.save(state_at(step))
processes.wait_for_all("saved")
if processes.is_first():
    (folder / "3" / "default" / "manifest.ocdbt").write_bytes(b"")
processes.wait_for_all("damaged")
with Checkpoints(folder, keep=3) as checkpoints:
    state = checkpoints.restore(jax.eval_shape(lambda: state_at(0)))
    print("restored", state.step, state.params["kernel"].mean())
    checkpoints.save(state_at(3))
with Checkpoints(folder, keep=3) as checkpoints:
    print("then", checkpoints.latest_step)
"""
    first, second = end(start_scripts(script))
    for output in (first, second):
        assert "restored 2 2.0" in output and "then 3" in output
    assert first.count("manifest.ocdbt is damaged") == 1 and "damaged" not in second
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2", "3", "3.damaged"]
    assert all((tmp_path / "checkpoints" / step / "checksums.txt").exists() for step in "123")


def test_a_host_that_fails_ends_the_others(start_hosts):
    first, second = end(start_hosts([], ["--data", "folder:nowhere"]), status=1)
    assert "error: nowhere is not a folder" in second
    assert "error: process 1 failed" in first
    first, second = end(start_hosts([], ["--seed", "1"]), status=1)
    assert "error: the processes have different options, data or workdirs" in first
