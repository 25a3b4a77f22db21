from gcvit_flax.training.config import TrainConfig
from gcvit_flax.training.plan import Plan


def epoch_ends(plan: Plan) -> list[int]:
    return [step for step in range(1, plan.last_step + 1) if plan.ends_epoch(step)]


def test_epochs_end_where_the_data_does():
    """3,303 images in batches of 32 are 103.2 steps: epochs end in the step that sees the last image."""
    plan = Plan.of(TrainConfig(epochs=5, batch_size=32), 3303)
    assert (plan.total_steps, plan.last_step) == (516, 516)
    assert epoch_ends(plan) == [104, 207, 310, 413, 516]
    assert plan.epochs(516) == 516 * 32 / 3303


def test_whole_epochs_end_exactly_even_where_floats_would_not():
    for examples in range(1, 200):
        plan = Plan.of(TrainConfig(epochs=examples, batch_size=examples), examples)
        assert epoch_ends(plan) == list(range(1, examples + 1))
    plan = Plan.of(TrainConfig(epochs=3, batch_size=3), 147)
    assert epoch_ends(plan) == [49, 98, 147]


def test_max_steps_stops_early_on_the_same_schedule():
    plan = Plan.of(TrainConfig(epochs=5, batch_size=10, max_steps=7), 100)
    assert (plan.total_steps, plan.last_step) == (50, 7)
    assert epoch_ends(plan) == [7]
    assert Plan.of(TrainConfig(epochs=5, batch_size=10, max_steps=70), 100).last_step == 50


def test_data_smaller_than_a_batch():
    assert epoch_ends(Plan.of(TrainConfig(epochs=2, batch_size=10), 4)) == [1]
