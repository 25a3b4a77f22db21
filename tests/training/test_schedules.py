import pytest

from gcvit_flax.training.schedules import constant_schedule, cosine_schedule


def test_the_warm_up_lies_inside_the_cosine():
    schedule = cosine_schedule(peak=5e-3, warmup_steps=20, cosine_steps=310)
    assert schedule(0) == 1e-6
    assert schedule(10) == pytest.approx((5e-3 + 1e-6) / 2, rel=1e-6)
    assert schedule(20) == pytest.approx(0.990 * 5e-3, rel=1e-3)  # What the official cosine gives at epoch 20.
    assert schedule(310) == schedule(319) == pytest.approx(5e-6)
    assert cosine_schedule(1e-3, 0, 10)(0) == 1e-3


def test_a_schedule_may_start_and_end_elsewhere():
    schedule = cosine_schedule(1e-3, 4, 10, start=5e-4, floor=2e-4)
    assert schedule(0) == 5e-4 and schedule(2) == pytest.approx(7.5e-4) and schedule(10) == schedule(99) == 2e-4
    assert schedule(5) == pytest.approx(6e-4)  # Half way between peak and floor.
    assert cosine_schedule(1e-3, 4, 10, floor=0.0)(10) == 0
    assert constant_schedule(1e-3, 4, start=0.0)(1) == pytest.approx(2.5e-4)


def test_the_constant_schedule_warms_up_too():
    schedule = constant_schedule(1e-3, 4)
    assert schedule(0) == 1e-6 and schedule(4) == schedule(1000) == 1e-3
    assert constant_schedule(1e-3, 0)(0) == 1e-3
