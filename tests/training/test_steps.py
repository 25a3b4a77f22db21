import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import TINY, random_variables

from gcvit_flax.data.sources import ListSource
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.training.evaluation import run_evaluation
from gcvit_flax.training.losses import top_k_correct, training_losses, unmixed_targets
from gcvit_flax.training.pmapped import replicate, shard
from gcvit_flax.training.steps import (
    create_train_state,
    make_eval_step,
    make_sync_check,
    make_train_step,
)
from gcvit_flax.training.train_config import TrainConfig

DEVICES = jax.local_devices()
CONFIG = TrainConfig(batch_size=4, color_jitter=0.2, ema_decay=0.5)


def batch_of(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8),
        "label": rng.integers(0, 3, 4).astype(np.int32),
        "index": np.arange(4, dtype=np.int32),
    }


@pytest.fixture(scope="module")
def model():
    """Drop path is on: like augmentation it depends on the example's place in the global batch, not on its device."""
    return create_model(TINY, drop_path_rate=0.2)


@pytest.fixture(scope="module")
def initial_state(model):
    """On the host, to be put on any devices, and donated, again and again."""
    params = init_params(model, jax.random.key(0))
    return jax.device_get(create_train_state(model, params, CONFIG))


@pytest.fixture(scope="module")
def train_step(model):
    return make_train_step(model, CONFIG, DEVICES)


@pytest.fixture(scope="module")
def one_device_step(model):
    return make_train_step(model, CONFIG, DEVICES[:1])


@pytest.fixture
def compilations():
    """The compilations since the list was last cleared."""
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event) if "backend_compile" in event else None
    )
    yield events
    jax.monitoring.clear_event_listeners()


def test_two_devices_are_one(train_step, one_device_step, initial_state, compilations):
    losses, states = [], []
    for devices, step in ((DEVICES[:1], one_device_step), (DEVICES, train_step)):
        state = replicate(initial_state, devices)
        for seed in range(3):
            state, metrics = step(state, shard(batch_of(seed), devices), jax.random.key(5), np.float32(1e-3))
            losses.append(float(metrics["train_loss"]))
            if seed == 0:
                assert compilations
                compilations.clear()
        assert not compilations, "the state comes back in another layout than it went in"
        states.append(jax.device_get(state.params))
        assert int(state.step) == 3
    np.testing.assert_allclose(losses[:3], losses[3:], rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)  # Adam divides by the root of tiny squares: signs may flip.


def test_the_step_learns_what_it_sees(train_step, initial_state):
    state, batch = replicate(initial_state, DEVICES), shard(batch_of(0), DEVICES)
    losses = []
    for _ in range(40):
        state, metrics = train_step(state, batch, jax.random.key(0), np.float32(5e-3))
        losses.append(float(metrics["train_loss"]))
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


def test_the_average_follows_the_parameters(train_step, initial_state):
    state, seen = replicate(initial_state, DEVICES), []
    for step in range(3):
        state, _ = train_step(state, shard(batch_of(step), DEVICES), jax.random.key(0), np.float32(1e-2))
        seen.append(jax.device_get(state.params))
    for average, *params in zip(
        jax.tree.leaves(jax.device_get(state.ema_params)), *map(jax.tree.leaves, seen), strict=True
    ):
        np.testing.assert_allclose(average, np.tensordot([1 / 7, 2 / 7, 4 / 7], params, 1), atol=1e-5)


def test_accumulating_gradients_changes_nothing(model, one_device_step, initial_state):
    """With drop path and augmentation on: they follow the example's place in the global batch."""
    in_two_parts = make_train_step(model, dataclasses.replace(CONFIG, accumulation_steps=2), DEVICES[:1])
    states, losses = [], []
    for step in (one_device_step, in_two_parts):
        state = replicate(initial_state, DEVICES[:1])
        for seed in range(2):
            state, metrics = step(state, shard(batch_of(seed), DEVICES[:1]), jax.random.key(5), np.float32(1e-3))
            losses.append(float(metrics["train_loss"]))
        states.append(jax.device_get(state.params))
    np.testing.assert_allclose(losses[:2], losses[2:], rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)  # As between one device and two.


def test_devices_that_differ_in_one_bit_are_found():
    check = make_sync_check(DEVICES)
    tree = {"a": np.linspace(0, 1, 7, dtype=np.float32), "b": np.ones((2, 3), np.float32)}
    assert check(replicate(tree, DEVICES))
    swapped, nudged = tree["a"].copy(), tree["a"].copy()
    swapped[[2, 3]] = swapped[[3, 2]]
    nudged[4] = np.nextafter(nudged[4], 1)
    for other in (swapped, nudged):
        good = replicate(tree, DEVICES)
        pieces = [jax.device_put(x, device) for x, device in zip((tree["a"], other), DEVICES, strict=True)]
        bad = jax.make_array_from_single_device_arrays(tree["a"].shape, good["a"].sharding, pieces)
        assert not check(good | {"a": bad})


def test_losses():
    logits = jnp.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    labels = jnp.array([1, 2])
    smoothed = unmixed_targets(labels, 3, TrainConfig(label_smoothing=0.3))
    np.testing.assert_allclose(smoothed, [[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]], rtol=1e-6)
    np.testing.assert_array_equal(unmixed_targets(labels, 3, TrainConfig(label_smoothing=0.0)), [[0, 1, 0], [0, 0, 1]])
    assert top_k_correct(logits, labels, 1).tolist() == [False, False]  # A tie goes to the earlier class.
    assert top_k_correct(logits, labels, 2).tolist() == [True, False]
    assert top_k_correct(logits, labels, 5).tolist() == [True, True]
    assert top_k_correct(logits.at[0].set(jnp.nan), labels, 1).tolist() == [False, False]


def test_binary_cross_entropy_wants_every_class_that_is_in_the_image():
    config = TrainConfig(loss="binary_cross_entropy", label_smoothing=0.3)
    np.testing.assert_array_equal(unmixed_targets(jnp.array([1]), 3, config), [[0, 1, 0]])
    logits, targets = np.array([2.0, 1.0, -1.0]), np.array([0.8, 0.1, 0.8])  # 1, 0 and 1, smoothed.
    probabilities = 1 / (1 + np.exp(-logits))
    expected = -(targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities)).mean()
    losses = training_losses(jnp.array([logits]), jnp.array([[0.05, 0.0, 0.95]]), config)
    np.testing.assert_allclose(losses, [expected], rtol=1e-6)


def test_a_head_is_trained_on_a_still_trunk():
    """Whatever dropout and drop path the network has for training."""
    model = create_model(TINY, dropout_rate=0.5, drop_path_rate=0.5)
    config = TrainConfig(batch_size=4, flip=False, color_jitter=0.0, head_only=True)
    step, batch = make_train_step(model, config, DEVICES), shard(batch_of(0), DEVICES)
    first = jax.device_get(create_train_state(model, random_variables(TINY)["params"], config))
    losses = []
    for seed in range(2):
        _, metrics = step(replicate(first, DEVICES), batch, jax.random.key(seed), np.float32(0.0))
        losses.append(float(metrics["train_loss"]))
    assert losses[0] == losses[1] != pytest.approx(np.log(3), rel=1e-3)


def test_mixing_stops_and_averaging_starts_where_they_should():
    """In one compiled program: with the learning rate 0, what changes is what the step does with the same batch."""
    options = {"batch_size": 4, "flip": False, "color_jitter": 0.0, "ema_decay": 0.5}
    steady = create_model(TINY)
    mixed = TrainConfig(**options, mixup=1.0)
    step = make_train_step(steady, mixed, DEVICES, mix_off_step=2, ema_start_step=2)
    plain = make_train_step(steady, TrainConfig(**options), DEVICES)
    params, batch = random_variables(TINY)["params"], shard(batch_of(0), DEVICES)
    params["head"]["kernel"] *= 50  # Else the loss depends little on the targets.
    first = jax.device_get(create_train_state(steady, params, mixed))
    _, metrics = plain(replicate(first, DEVICES), batch, jax.random.key(0), np.float32(0))
    expected = metrics["train_loss"]
    state = replicate(first, DEVICES)
    differences = []
    for _ in range(4):
        state, metrics = step(state, batch, jax.random.key(0), np.float32(0))
        differences.append(abs(float(metrics["train_loss"] - expected)))
    assert min(differences[:2]) > 1e-4 and max(differences[2:]) < 1e-6

    state, seen = replicate(first, DEVICES), []
    for _ in range(4):
        state, _ = step(state, batch, jax.random.key(0), np.float32(1e-2))
        seen.append([jax.device_get(leaf) for leaf in jax.tree.leaves((state.params, state.ema_params))])
    half = len(seen[0]) // 2
    for number, weights in ((1, [0, 1, 0, 0]), (2, [0, 0, 1, 0]), (3, [0, 0, 1 / 3, 2 / 3])):
        for leaf in range(half):
            average = np.tensordot(weights, [values[leaf] for values in seen], 1)
            np.testing.assert_allclose(seen[number][half + leaf], average, atol=1e-5)


def test_evaluation_is_exact_where_the_last_batch_is_short(model):
    params = init_params(model, jax.random.key(3))
    params = jax.tree.map(lambda x: x + 0.1, params)
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (7, 32, 32, 3), dtype=np.uint8))
    labels = rng.integers(0, 3, 7)
    source = ListSource(images, labels, [""] * 7)
    step = make_eval_step(model, DEVICES)
    replicated = replicate(params, DEVICES)
    zeros = jax.tree.map(jnp.zeros_like, replicated)
    both = run_evaluation(step, {"val": replicated, "zeros": zeros}, source, model.preprocessing, 4, DEVICES)
    result = both["val"]
    assert both["zeros"]["loss"] == pytest.approx(np.log(3), rel=1e-6)  # One pass over the images for both.

    normalized = (np.stack(images) / 255 - np.array(model.preprocessing.mean)) / np.array(model.preprocessing.std)
    logits = jax.jit(model.apply)({"params": params}, jnp.float32(normalized))
    assert result["count"] == 7 and result["top5"] == 1.0
    assert result["top1"] == pytest.approx(float((logits.argmax(-1) == labels).mean()))
    expected = -np.asarray(jax.nn.log_softmax(logits))[np.arange(7), labels].mean()
    assert result["loss"] == pytest.approx(expected, rel=1e-5)
