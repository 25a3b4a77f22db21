"""Signals to a run and to all of its processes, and output that is gone, through the real command line."""

import os
import signal
import subprocess
import sys

import pytest
from small import alive, read_metrics, wait_until

pytestmark = pytest.mark.programs

LONG = ["--epochs", "400"]


@pytest.fixture
def start(finetune, environment, tmp_path, heeded_signals):
    """Starts a run in a process group of its own, as a terminal, systemd, Slurm and Kubernetes do."""
    started = []

    def start(*options, **pipes) -> subprocess.Popen:
        command = [sys.executable, *map(str, [*finetune, *options])]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **pipes}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        if alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def trained(tmp_path, steps: int):
    return lambda: len(read_metrics(tmp_path / "runs" / "finetune")) >= steps


@pytest.mark.parametrize(
    ("signum", "name", "status"),
    [(signal.SIGTERM, "SIGTERM", 0), (signal.SIGHUP, "SIGHUP", 0), (signal.SIGINT, "SIGINT", 130)],
)
def test_a_signal_to_the_process_group_saves_though_workers_decode(signum, name, status, start, run_command, tmp_path):
    process = start(*LONG, "--workers", "2")
    wait_until(trained(tmp_path, 3), process)
    os.killpg(process.pid, signum)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    step = int(output.split(f"stopped by {name}: saved at step ")[1].split()[0])
    assert (tmp_path / "runs" / "finetune" / "checkpoints" / str(step)).is_dir()
    wait_until(lambda: not alive(process.pid))  # No worker is left.
    records = [record["step"] for record in read_metrics(tmp_path / "runs" / "finetune") if "train_loss" in record]
    assert records == list(range(1, step + 1))


def test_a_run_whose_output_is_closed_goes_on(start, tmp_path):
    process = start()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=200) == 0
    assert (tmp_path / "runs" / "finetune" / "model").is_dir()


def test_workers_end_with_a_run_that_is_killed(start, tmp_path):
    process = start(*LONG, "--workers", "2")
    wait_until(trained(tmp_path, 1), process)
    assert alive(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not alive(process.pid))
