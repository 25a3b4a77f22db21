"""gcvit-plan with libtpu: what its compiler says, and that this is understood."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from small import SMALL, TINY

from gcvit_flax.model.gcvit import create_model
from gcvit_flax.planning.compiled_step import StepCompiler
from gcvit_flax.planning.costs import read_costs
from gcvit_flax.training.report.timing import peak_flops
from gcvit_flax.training.train_config import TrainConfig

pytestmark = pytest.mark.tpu

PLAN = ("-m", "gcvit_flax.plan", "digits", *SMALL, "--topology", "v5e:2x2", "--json")


def on(topology, shape, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(topology.devices[0]))


def test_the_table_has_the_compilers_memory(tpu):
    """It names what there is where a program is too large."""
    program = jax.jit(lambda x: x + 1).lower(on(tpu, (2**40,), jnp.int8))
    with pytest.raises(jax.errors.JaxRuntimeError, match=rf"exceeds available HBM \({tpu.memory / 2**30:.2f}G\)"):
        program.compile()


def test_products_are_estimated_near_the_peak(tpu):
    """The clock rates of the table are those of the compiler's cycles."""
    matrix = on(tpu, (8192, 8192), jnp.bfloat16)
    program = jax.jit(jnp.dot).lower(matrix, matrix).compile()
    peak = peak_flops(tpu.devices[0])
    seconds = read_costs(program.as_text(), peak, tpu.chip.bandwidth).cycles / tpu.chip.hertz
    assert 0.6 < 2 * 8192**3 / peak / seconds < 1.01


def test_kernels_state_their_costs_in_loops_too(tpu):
    def double(x_ref, y_ref):
        y_ref[...] = x_ref[...] * 2

    def repeated(x):
        cost = pl.CostEstimate(flops=3_000_000, bytes_accessed=10, transcendentals=0)
        kernel = pl.pallas_call(double, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), cost_estimate=cost)
        return jax.lax.fori_loop(0, 7, lambda _, y: kernel(y) + 1, x)

    program = jax.jit(repeated).lower(on(tpu, (512, 128))).compile()
    costs = read_costs(program.as_text(), 1e9, 1e9)
    assert (costs.kernels, costs.silent_kernels) == (7, 0)
    assert costs.kernel_seconds == pytest.approx(7 * 3e-3)
    assert costs.cycles > 0


def test_gathers_are_counted(tpu):
    program = jax.jit(lambda table, index: table[index]).lower(on(tpu, (4096,)), on(tpu, (64, 1000), jnp.int32))
    assert read_costs(program.compile().as_text(), 1.0, 1.0).sparse_elements == 64_000


def test_slices_are_known(tpu):
    assert (tpu.name, len(tpu.devices), tpu.hosts) in {
        ("v5e:4x8", 32, 8),
        ("v4:2x2x4", 16, 4),
        ("v5p:2x2x1", 4, 1),
        ("v6e:2x2", 4, 1),
    }


@pytest.mark.parametrize("tpu", ["v4:2x2x4", "v6e:2x2"], indirect=True)
def test_the_step_compiles(tpu):
    devices = len(tpu.devices)
    compiler = StepCompiler(create_model(TINY), TrainConfig(batch_size=devices, dtype="bfloat16"), tpu)
    step = compiler(devices)
    assert step.memory.arguments > compiler.state_bytes and step.memory.code > 0
    costs = read_costs(step.program.as_text(), peak_flops(tpu.devices[0]), tpu.chip.bandwidth)
    assert costs.cycles > 10_000
    gradients = compiler.state_bytes / 3  # Beside Adam's two moments.
    assert 0.9 * gradients < costs.reduced_bytes < 2 * gradients


def test_a_plan(run_command):
    process = run_command(*PLAN, "--examples", "200")
    lines = process.stderr.splitlines()
    assert len(lines) == 2 and all(line.startswith("compiling ") for line in lines), process.stderr
    plan = json.loads(process.stdout)
    assert plan["fits"] and plan["devices"] == 4 and plan["largest_batch_size"] == 192
    assert plan["memory"]["available"] == round(15.75 * 2**30)
    assert 0 < plan["step_seconds"] < 0.1 and 0 < plan["model_flop_utilisation"] < 0.1 and plan["flops"] > 1e6


def test_a_step_that_does_not_fit(run_command):
    process = run_command(*PLAN, "--batch-size", str(2**22), "--no-largest-batch")
    plan = json.loads(process.stdout)
    assert not plan["fits"] and plan["memory"]["needed"] > plan["memory"]["available"]
    assert "step_seconds" not in plan
