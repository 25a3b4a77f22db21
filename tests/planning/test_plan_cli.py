"""gcvit-plan from its command line to what it prints, with a compiler that only counts.

tests/planning/test_compiled_step.py compiles for simulated devices, tests/tpu for TPUs.
"""

import dataclasses
import functools
import json
import os

import jax
import pytest
from small import SMALL

from gcvit_flax import plan
from gcvit_flax.cli import run_cli
from gcvit_flax.planning import planner, report, table
from gcvit_flax.planning.chips import GPUS, TPUS
from gcvit_flax.planning.compiled_step import CompiledStep, Memory
from gcvit_flax.planning.costs import Costs
from gcvit_flax.planning.options import PlanOptions, parse_plan
from gcvit_flax.planning.topologies import Topology
from gcvit_flax.training.train_config import TrainOptions

COSTS = Costs(cycles=3_000_000, kernel_seconds=0.5, kernels=2, sparse_elements=200_000, reduced_bytes=10**9, fusions=5)


@pytest.fixture
def run(monkeypatch, capsys):
    """The exit status, stdout and stderr of a command line, in an environment of its own."""
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def run(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            run_cli(functools.partial(plan.main, arguments))
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


class Program:
    def as_text(self) -> str:
        return "the program"

    def cost_analysis(self) -> dict[str, float]:
        return {"flops": 5e9, "bytes accessed": 2.0**30}


class Compiler:
    """A step takes 32 MiB, and 16 for each image."""

    state_bytes = 32 * 2**20

    def __init__(self, model, config, topology):
        self._devices = len(topology.devices)

    def __call__(self, batch_size: int) -> CompiledStep:
        memory = Memory(24 * 2**20, batch_size // self._devices * 16 * 2**20, 8 * 2**20)
        return CompiledStep(batch_size, 90.0, memory.total, memory, Program())


@pytest.fixture
def slice_of_two(monkeypatch):
    """Whatever is asked for has two devices of 2 GiB, and a step costs `COSTS`."""

    def open_topology(name):
        chip = GPUS["h100"] if name == "h100" else TPUS["v5e"]
        return Topology(name, chip, jax.local_devices(), 2.0**31)

    monkeypatch.setattr(planner, "open_topology", open_topology)
    monkeypatch.setattr(planner, "StepCompiler", Compiler)
    monkeypatch.setattr(report, "read_costs", lambda *_: COSTS)
    monkeypatch.setattr(report, "peak_flops", lambda _: 197e12)
    monkeypatch.setattr(report, "training_flops", lambda _: 1e12)


DIGITS = ("digits", *SMALL, "--topology", "v5e:2x2")


def test_numbers(run, slice_of_two):
    status, out, err = run(*DIGITS, "--epochs", "2", "--no-largest-batch", "--json")
    assert status == 0
    assert err == "compiling the step for 4 images on v5e:2x2: minutes, by the network's depth\n"
    numbers = json.loads(out)
    seconds = 3_000_000 / 1.5e9 + 0.5 + 10**9 / 50e9  # Of two chips, each sends all of its gradients once.
    assert numbers["step_seconds"] == pytest.approx(seconds)
    assert numbers["images_per_second"] == pytest.approx(4 / seconds)
    assert numbers["model_flop_utilisation"] == pytest.approx(4 / seconds * 1e12 / (2 * 197e12))
    assert (numbers["steps"], numbers["epochs"]) == (719, pytest.approx(2, abs=0.01))  # 1,438 images are trained on.
    assert numbers["run_seconds"] == pytest.approx(719 * seconds)
    assert numbers["fits"] and numbers["memory"] == {
        "needed": 64 * 2**20,
        "available": 2**31,
        "arguments": 24 * 2**20,
        "temporaries": 32 * 2**20,
        "code": 8 * 2**20,
    }
    assert numbers["flops"] == 5e9 and numbers["classes"] == 10 and numbers["devices"] == 2
    assert "largest_batch_size" not in numbers


def test_accumulated_parts_count(run, slice_of_two):
    _, out, _ = run(*DIGITS, "--batch-size", "8", "--accumulation-steps", "2", "--json")
    assert json.loads(out)["flops"] == 10e9


def test_the_table(run, slice_of_two):
    status, out, err = run(*DIGITS)
    assert status == 0
    assert err.splitlines()[1:] == ["compiling it for 224 images, which may be the most: 2 minutes or more"]
    rows, _, missing = out.partition("\n\n")
    assert rows.splitlines()[1:] == [
        "devices         v5e:2x2: 2 devices",
        "batch           4 images, 2 a device",
        "memory          fits: 0.06 of 2.00 GiB a device (state and batch 0.02, temporaries 0.03, program 0.01)",
        "largest batch   224 images, 112 a device: 1.78 GiB, compiled",
        "work of a step  5.0 GFLOP and 1.00 GiB moved, a device",
        "time of a step  522.0 ms (operations 2.0, kernels 500.0, all-reduce 20.0)",
        "throughput      8 images/s, 1.9% of the chips' peak",
        "time of the run 56.3 minutes (6,471 steps, 18.0 epochs)",
        "compiled in     90 s",
    ]
    assert "estimates, nothing was measured. They leave out:" in missing
    for words in ("evaluations", "2 Pallas kernels", "200,000 elements", "may overlap"):
        assert words in missing


@pytest.mark.parametrize(("seconds", "text"), [(0.5, "0.5 seconds"), (7200, "2.0 hours"), (300_000, "3.5 days")])
def test_durations(seconds, text):
    assert table._duration(seconds) == text


def test_the_data_may_be_smaller_than_the_memory(run, slice_of_two):
    _, out, _ = run(*DIGITS, "--examples", "100")
    assert "largest batch   96 images, 48 a device: 0.78 GiB, compiled; the data has 100\n" in out


def test_a_gpu_has_kernels_and_no_time(run, slice_of_two):
    status, out, _ = run("digits", *SMALL, "--topology", "h100", "--no-largest-batch")
    assert status == 0
    assert "kernels         5 fusions, 0 library calls, 2 pallas kernels\n" in out
    assert " ms" not in out and "time of" not in out


def test_too_large_is_an_answer(run, slice_of_two, monkeypatch):
    monkeypatch.setattr(Compiler, "__call__", lambda self, batch_size: CompiledStep(batch_size, 90.0, 2**40))
    status, out, _ = run(*DIGITS)
    assert status == 0
    assert "memory          does not fit: 1,024.00 of 2.00 GiB a device\n" in out
    assert "largest batch   none that was compiled fits\n" in out and "time of" not in out


MISTAKES = {
    ("digits",): "--topology is missing: give the devices, such as --topology v5e:4x8",
    ("digit", "--topology", "v5e:2x2"): "unknown preset 'digit'",
    ("digits", "--topology", "v5e:5x5"): "no devices are called 'v5e:5x5'",
    ("imagenet", "--variant", "gcvit_huge", "--topology", "v5e:2x2"): "unknown variant 'gcvit_huge'",
    ("digits", "--topology", "v5e:2x2", "--learning-rate", "-1"): "--learning-rate must be positive",
    ("digits", "--topology", "v5e:2x2", "--devices", "2"): "--devices 2 is for training here: --topology says",
    ("digits", "--topology", "v5e:2x2", "--examples", "0"): "--examples must be at least 1, got 0",
    ("finetune", "--topology", "v5e:2x2"): "how many classes your data has: give --num-classes",
    ("finetune", "--data", "folder:P", "--topology", "v5e:2x2"): "how many classes folder:P has: give --num-classes",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_sentence(run, arguments):
    status, out, err = run(*arguments)
    assert status == 1 and out == ""
    assert err.startswith("error: ") and MISTAKES[arguments] in err and err.count("\n") == 1


def test_a_batch_that_does_not_divide(run, slice_of_two):
    status, _, err = run(*DIGITS, "--batch-size", "6", "--mixup", "1", "--accumulation-steps", "2")
    assert status == 1
    assert err == (
        "error: a batch of 6 does not divide over 2 devices in shares that are multiples of 4: make --batch-size a "
        "multiple of 8, or change --topology\n"
    )


def test_what_jax_reads_is_set_before_it_starts(run_command):
    """Also over what the user has set: no device of this machine is looked for."""
    process = run_command(
        "-c",
        "import os, sys\n"
        "from gcvit_flax import plan\n"
        "try:\n plan.main(['digits', '--topology', 'v5e:5x5'])\n"
        "except ValueError:\n pass\n"
        "import jax\n"
        "print(jax.config.jax_platforms, jax.config.jax_enable_compilation_cache, os.environ['TPU_WORKER_HOSTNAMES'])",
        JAX_PLATFORMS="tpu",
        TPU_WORKER_HOSTNAMES="given",
    )
    assert process.stdout == "cpu False given\n"


def test_the_options_are_those_of_training():
    training = {field.name for field in dataclasses.fields(TrainOptions)}
    own = {field.name for field in dataclasses.fields(PlanOptions)} - training
    assert own == {"topology", "examples", "largest_batch", "json"}
    request = parse_plan(["imagenet", "--topology", "v4:2x2x4", "--remat", "--examples", "1000"])
    assert request.config.remat and request.config.rand_augment == 9 and request.examples == 1000


@pytest.mark.parametrize(
    ("arguments", "classes", "examples"),
    [
        (["digits"], 10, 1438),
        (["flowers"], 5, 3303),
        (["imagenet"], 1000, 1_281_167),
        (["imagenet", "--examples", "500"], 1000, 500),
        (["finetune", "--num-classes", "7"], 7, None),
        (["finetune", "--data", "folder:P", "--num-classes", "7", "--examples", "90"], 7, 90),
        (["imagenet", "--train-fraction", "0.1"], 1000, 128_117),
        (["imagenet", "--shots", "5"], 1000, 5000),
        (["finetune", "--data", "folder:P", "--num-classes", "7", "--shots", "5"], 7, 35),
        (["imagenet", "--data", "tfds:imagenet2012[train[:10%]]"], 1000, None),
        (["imagenet", "--data", "tfds:imagenet2012[train[:10%]]", "--train-fraction", "0.1"], 1000, None),
    ],
    ids=str,
)
def test_the_size_of_the_data(arguments, classes, examples):
    request = parse_plan([*arguments, "--topology", "v5e:2x2"])
    size = planner.data_size(request.config, request.examples)
    assert (size.classes, size.examples) == (classes, examples)
