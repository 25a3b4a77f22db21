import pytest

from gcvit_flax.training.schedules import constant_schedule, cosine_schedule


def test_the_warm_up_lies_inside_the_cosine():
    schedule = cosine_schedule(peak=5e-3, warmup_steps=20, cosine_steps=310)
    assert schedule(0) == 1e-6
    assert schedule(10) == pytest.approx((5e-3 + 1e-6) / 2, rel=1e-6)
    assert schedule(20) == pytest.approx(0.990 * 5e-3, rel=1e-3)  # What the official cosine gives at epoch 20.
    assert schedule(310) == schedule(319) == pytest.approx(5e-6)
    assert cosine_schedule(1e-3, 0, 10)(0) == 1e-3


def test_the_constant_schedule_warms_up_too():
    schedule = constant_schedule(1e-3, 4)
    assert schedule(0) == 1e-6 and schedule(4) == schedule(1000) == 1e-3
    assert constant_schedule(1e-3, 0)(0) == 1e-3
