import dataclasses

import pytest

from gcvit_flax.errors import UserError
from gcvit_flax.training.plan import Plan, resolve_defaults
from gcvit_flax.training.presets import PRESETS
from gcvit_flax.training.train_config import TrainConfig
from gcvit_flax.variants import VARIANTS


def evaluations(plan: Plan) -> list[int]:
    return [step for step in range(1, plan.last_step + 1) if plan.evaluates(step)]


def test_epochs_end_where_the_data_does():
    """3,303 images in batches of 32 are 103.2 steps: epochs end in the step that sees the last image."""
    plan = Plan(TrainConfig(epochs=5, batch_size=32), 3303)
    assert (plan.total_steps, plan.last_step) == (516, 516)
    assert evaluations(plan) == [104, 207, 310, 413, 516]
    assert plan.epochs(516) == 516 * 32 / 3303


def test_whole_epochs_end_exactly_even_where_floats_would_not():
    for examples in range(1, 200):
        plan = Plan(TrainConfig(epochs=examples, batch_size=examples), examples)
        assert evaluations(plan) == list(range(1, examples + 1))
    plan = Plan(TrainConfig(epochs=3, batch_size=3), 147)
    assert evaluations(plan) == [49, 98, 147]


def test_evaluations_and_checkpoints_in_between():
    plan = Plan(TrainConfig(epochs=2, batch_size=1, evaluate_every=0.1), 100)
    assert evaluations(plan) == list(range(10, 201, 10))
    plan = Plan(TrainConfig(epochs=4, batch_size=1, evaluate_every=3, save_every=30), 20)
    assert evaluations(plan) == [60, 80]
    assert [step for step in range(1, 81) if plan.saves(step)] == [30, 60, 80]


def test_max_steps_stops_early_on_the_same_schedule():
    plan = Plan(TrainConfig(epochs=5, batch_size=10, max_steps=7), 100)
    assert (plan.total_steps, plan.last_step) == (50, 7)
    assert evaluations(plan) == [7]
    assert Plan(TrainConfig(epochs=5, batch_size=10, max_steps=70), 100).last_step == 50


def test_data_smaller_than_a_batch():
    assert evaluations(Plan(TrainConfig(epochs=2, batch_size=10), 4)) == [1]


@pytest.mark.parametrize(("variant", "batch_size"), [("gcvit_tiny", 4096), ("gcvit_base", 1024)])
def test_the_imagenet_preset_is_the_official_recipe(variant, batch_size):
    config = resolve_defaults(PRESETS["imagenet"], VARIANTS[variant])
    assert (config.batch_size, config.learning_rate) == (batch_size, 5e-3)
    half = resolve_defaults(dataclasses.replace(PRESETS["imagenet"], batch_size=batch_size // 2), VARIANTS[variant])
    assert half.learning_rate == 2.5e-3

    plan = Plan(config, 1_281_167)
    per_epoch = 1_281_167 / batch_size
    assert plan.total_steps == round(320 * per_epoch)
    at = [plan.schedule(round(epoch * per_epoch)) for epoch in (0, 20, 310, 319)]
    assert at == pytest.approx([1e-6, 0.99 * 5e-3, 5e-6, 5e-6], rel=1e-3)


def test_layers_learn_at_different_rates_only_where_they_have_learned_before():
    config = TrainConfig(layer_decay=0.8)
    assert resolve_defaults(config, VARIANTS["gcvit_tiny"]).layer_decay == 1
    config = dataclasses.replace(config, init_from="weights/tiny")
    assert resolve_defaults(config, VARIANTS["gcvit_tiny"]).layer_decay == 0.8


def test_the_flowers_preset_is_the_keras_run():
    config = resolve_defaults(PRESETS["flowers"], VARIANTS["gcvit_xxtiny"])
    plan = Plan(config, 3303)
    assert plan.last_step == 516 and len(evaluations(plan)) == 5  # 103.2 steps an epoch; Keras rounds up to 104.
    assert {plan.schedule(step) for step in (0, 1, 200, 515)} == {1e-3}
    assert (config.weight_decay, config.clip_norm, config.label_smoothing, config.squash) == (0, None, 0, True)


def test_the_steps_of_an_epoch_of_switches():
    plan = Plan(TrainConfig(epochs=5, batch_size=10, mixup=0.1, mix_off_epoch=2.5, ema_decay=0.9, ema_start=1), 100)
    assert (plan.mix_off_step, plan.ema_start_step) == (25, 10)
    plan = Plan(TrainConfig(epochs=5, batch_size=10, mixup=0.1), 100)
    assert (plan.mix_off_step, plan.ema_start_step) == (None, 0)


def test_the_ends_of_the_schedule_are_not_scaled_and_lie_below_its_peak():
    given = {"warmup_learning_rate": 1e-4, "final_learning_rate": 2e-4}
    config = dataclasses.replace(PRESETS["imagenet"], batch_size=1024, **given)
    plan = Plan(resolve_defaults(config, VARIANTS["gcvit_tiny"]), 1024)
    assert plan.config.learning_rate == 1.25e-3
    assert plan.schedule(0) == 1e-4 and plan.schedule(315) == 2e-4
    plan = Plan(TrainConfig(schedule="constant", warmup_learning_rate=1e-4, batch_size=1), 10)
    assert plan.schedule(0) == 1e-4 and plan.schedule(99) == 1e-3
    for name, typed in (("final_learning_rate", "--final-learning-rate"), ("warmup_learning_rate", "--warmup-lea")):
        config = TrainConfig(learning_rate=1e-3, **{name: 2e-3})
        with pytest.raises(UserError, match=rf"{typed}.* at most the peak learning rate, which is 0.001, got 0.002"):
            resolve_defaults(config, VARIANTS["gcvit_tiny"])
