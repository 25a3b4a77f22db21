"""Sums over compiled programs, on texts of the form that XLA:TPU and XLA:GPU print."""

import pytest

from gcvit_flax.planning.costs import Costs, read_costs
from gcvit_flax.planning.hlo import Program, elements, size_in_bytes

# A loop of 12 turns with a fusion of 100 cycles and a kernel, a branch, a gather, a scatter, and the gradients' sum.
TPU = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,128]{1,0:T(8,128)})->f32[8,128]{1,0}}

%add.1 (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[]{:T(128)} parameter(0)
  ROOT %sum.1 = f32[]{:T(128)} add(%a.1, %b.1)
}

%inner.1 (p.1: f32[8,128]) -> f32[8,128] {
  %p.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %double.1 = f32[8,128]{1,0:T(8,128)} add(%p.1, %p.1), backend_config={"estimated_cycles":"9000"}
}

%sparse.1 (table.1: f32[49,2], index.1: s32[16,16]) -> f32[16,16,2] {
  %table.1 = f32[49,2]{1,0:T(8,128)} parameter(0)
  ROOT %gather.1 = f32[16,16,2]{2,1,0:T(8,128)} gather(%table.1, %index.1), offset_dims={2}, slice_sizes={1,2}
}

%scattered.1 (table.2: f32[49,2], index.2: s32[16,16], updates.2: f32[5,7]) -> f32[49,2] {
  %updates.2 = f32[5,7]{1,0:T(8,128)} parameter(2)
  ROOT %scatter.1 = f32[49,2]{1,0} scatter(%table.2, %index.2, %updates.2), to_apply=%add.1
}

%body.1 (state.1: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %fusion.1 = f32[8,128]{1,0:T(8,128)S(1)} fusion(%state.1), kind=kLoop, calls=%inner.1, backend_config={"window_config":{"estimated_cycles":"100","iteration_bounds":["1"]}}
  %kernel.1 = f32[8,128]{1,0} custom-call(%fusion.1), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"TUxJUg==","cost_estimate":{"flops":"2000","transcendentals":"5","bytes_accessed":"10"}}}
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%fusion.1, %kernel.1)
}

%below.1 (counter.1: s32[]) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(12)
  ROOT %less.1 = pred[]{:T(512)} compare(%counter.1, %limit.1), direction=LT
}

%condition.1 (state.2: (s32[], f32[8,128])) -> pred[] {
  %state.2 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  ROOT %wrapped.1 = pred[]{:T(512)} fusion(%state.2), kind=kLoop, calls=%below.1
}

%cheap.1 (q.1: f32[8,128]) -> f32[8,128] {
  ROOT %c.1 = f32[8,128]{1,0} copy(%q.1), backend_config={"window_config":{"estimated_cycles":"30"}}
}

%dear.1 (q.2: f32[8,128]) -> f32[8,128] {
  ROOT %c.2 = f32[8,128]{1,0} copy(%q.2), backend_config={"window_config":{"estimated_cycles":"50"}}
}

ENTRY %main.1 (x.1: f32[8,128]) -> f32[8,128] {
  %x.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %buffer.1 = f32[9,16]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %loop.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) while(%x.1), condition=%condition.1, body=%body.1
  %branch.1 = f32[8,128]{1,0} conditional(%x.1, %x.1), branch_computations={%cheap.1, %dear.1}
  %look.1 = f32[16,16,2]{2,1,0} fusion(%x.1), kind=kCustom, calls=%sparse.1
  %add.2 = f32[49,2]{1,0} fusion(%x.1), kind=kCustom, calls=%scattered.1
  %silent.1 = f32[8,128]{1,0} custom-call(%x.1), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"TUxJUg=="}}
  %all-reduce.1 = (f32[10]{0:T(128)S(1)}, /*index=1*/bf16[256,10]{0,1:T(8,128)}) all-reduce(%x.1, %x.1), to_apply=%add.1
  ROOT %last.1 = f32[8,128]{1,0} fusion(%x.1), kind=kLoop, calls=%inner.1, backend_config={"window_config":{"estimated_cycles":"7"}}
}
"""  # noqa: E501

GPU = """HloModule jit_step, is_scheduled=true

%wrapped (p: f32[8]) -> f32[8] {
  ROOT %n = f32[8]{0} negate(%p)
}

%command_buffer (q: f32[8]) -> f32[8] {
  ROOT %f.2 = f32[8]{0} fusion(%q), kind=kLoop, calls=%wrapped
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %f.1 = f32[8]{0} fusion(%x), kind=kInput, calls=%wrapped
  %c = f32[8]{0} call(%f.1), to_apply=%command_buffer
  %gemm = (f32[8]{0}, s8[64]{0}) custom-call(%c), custom_call_target="__cublas$gemm", backend_config={}
  %top = f32[8]{0} custom-call(%c), custom_call_target="__gpu$xla.gpu.triton", backend_config={}
  ROOT %bits = f32[8]{0} custom-call(%c), custom_call_target="Sharding"
}
"""


def test_a_tpu_program():
    costs = read_costs(TPU, peak_flops=1e3, bandwidth=1e6)
    assert costs == Costs(
        cycles=12 * 100 + 50 + 7,
        kernel_seconds=12 * 2.0,  # 2000 operations at 1000 a second take longer than ten bytes.
        kernels=12 + 1,
        silent_kernels=1,
        sparse_elements=16 * 16 * 2 + 5 * 7,
        reduced_bytes=10 * 4 + 256 * 10 * 2,
        fusions=12 + 3,
    )


def test_a_kernel_that_waits_for_memory_takes_its_bytes_time():
    assert read_costs(TPU, peak_flops=1e9, bandwidth=1.0).kernel_seconds == pytest.approx(12 * 10)


def test_a_loop_of_known_length():
    text = TPU.replace("body=%body.1", 'body=%body.1, backend_config={"known_trip_count":{"n":"3"}}')
    assert read_costs(text, 1e3, 1e6).cycles == 3 * 100 + 50 + 7


def test_a_gpu_program():
    costs = read_costs(GPU, 1.0, 1.0)
    assert (costs.fusions, costs.library_calls, costs.kernels) == (2, 1, 1)


def test_shapes():
    assert elements("f32[8,3]{1,0:T(8,128)S(1)}") == 24 and size_in_bytes("bf16[8,3]{1,0}") == 48
    assert size_in_bytes("(f32[]{:T(128)}, pred[2,0]{1,0}, u8[5]{0})") == 9


def test_every_line_of_a_computation_is_read():
    program = Program(TPU)
    assert program.entry == "main.1"
    assert [each.opcode for each in program.computations["main.1"]] == [
        *(
            "parameter",
            "custom-call",
            "while",
            "conditional",
            "fusion",
            "fusion",
            "custom-call",
            "all-reduce",
            "fusion",
        ),
    ]
