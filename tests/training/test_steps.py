import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import TINY

from gcvit_flax.config import Preprocessing
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.training.augment import augment, jitter_colors, random_flip
from gcvit_flax.training.config import TrainConfig
from gcvit_flax.training.data import Listed
from gcvit_flax.training.evaluation import run_evaluation
from gcvit_flax.training.losses import in_top, smoothed_cross_entropy
from gcvit_flax.training.optim import cosine_schedule, decays, make_optimizer
from gcvit_flax.training.steps import make_eval_step, make_train_step, replicate, shard, start_state

DEVICES = jax.local_devices()
CONFIG = TrainConfig(batch_size=4, color_jitter=0.2)


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
    return jax.device_get(start_state(model, params, CONFIG, DEVICES))


@pytest.fixture(scope="module")
def train_step(model):
    return make_train_step(model, CONFIG, DEVICES)


def test_two_devices_are_one(model, train_step, initial_state):
    losses, states, compilations = [], [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    for devices, step in ((DEVICES[:1], make_train_step(model, CONFIG, DEVICES[:1])), (DEVICES, train_step)):
        state = replicate(initial_state, devices)
        for seed in range(3):
            compilations.clear()
            state, metrics = step(state, shard(batch_of(seed), devices), jax.random.key(5), np.float32(1e-3))
            losses.append(float(metrics["train_loss"]))
        states.append(jax.device_get(state.params))
        assert int(state.step) == 3
        assert not compilations, "the state comes back in another layout than it went in"
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


def test_weight_decay_spares_all_but_kernels():
    params = init_params(create_model(TINY, layer_scale=0.1), jax.random.key(0))
    decayed = {path[-1].key for path, yes in jax.tree_util.tree_leaves_with_path(decays(params)) if yes}
    spared = {path[-1].key for path, yes in jax.tree_util.tree_leaves_with_path(decays(params)) if not yes}
    assert decayed == {"kernel"}
    assert spared == {"bias", "scale", "gamma1", "gamma2", "relative_position_bias_table"}


def test_the_update_is_adamw():
    params = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])}
    grads = jax.tree.map(lambda x: 0.1 * x, params)
    ours, theirs = make_optimizer(0.1, 1e9), optax.adamw(1e-2, weight_decay=0.1, mask=decays)
    update, _ = ours.update(grads, ours.init(params), params)
    expected, _ = theirs.update(grads, theirs.init(params), params)
    for a, b in zip(jax.tree.leaves(update), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(-1e-2 * a, b, rtol=1e-6)


def test_the_warm_up_lies_inside_the_cosine():
    schedule = cosine_schedule(peak=5e-3, warmup_steps=20, total_steps=310)
    assert schedule(0) == 1e-6
    assert schedule(10) == pytest.approx((5e-3 + 1e-6) / 2, rel=1e-6)
    assert schedule(20) == pytest.approx(0.990 * 5e-3, rel=1e-3)  # What the official cosine gives at epoch 20.
    assert schedule(310) == schedule(400) == pytest.approx(5e-6)
    assert cosine_schedule(1e-3, 0, 10)(0) == 1e-3


def test_losses():
    logits = jnp.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    labels = jnp.array([1, 2])
    log_probabilities = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(smoothed_cross_entropy(logits, labels), -log_probabilities[[0, 1], labels], rtol=1e-6)
    smooth = smoothed_cross_entropy(logits, labels, 0.3)
    targets = np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(smooth, -(targets * log_probabilities).sum(-1), rtol=1e-6)
    assert in_top(logits, labels, 1).tolist() == [False, False]  # A tie goes to the earlier class.
    assert in_top(logits, labels, 2).tolist() == [True, False]
    assert in_top(logits, labels, 5).tolist() == [True, True]


def test_evaluation_is_exact_whatever_the_batch_size(model):
    params = init_params(model, jax.random.key(3))
    params = jax.tree.map(lambda x: x + 0.1, params)
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (7, 32, 32, 3), dtype=np.uint8))
    labels = rng.integers(0, 3, 7)
    source = Listed(images, labels, [""] * 7)
    step = make_eval_step(model, DEVICES)
    replicated = replicate(params, DEVICES)
    results = [run_evaluation(step, replicated, source, model.preprocessing, size, DEVICES) for size in (4, 6)]

    normalized = (np.stack(images) / 255 - np.array(model.preprocessing.mean)) / np.array(model.preprocessing.std)
    logits = jax.jit(model.apply)({"params": params}, jnp.float32(normalized))
    for result in results:
        assert result["count"] == 7 and result["top5"] == 1.0
        assert result["top1"] == pytest.approx(float((logits.argmax(-1) == labels).mean()))
        assert result["loss"] == pytest.approx(float(smoothed_cross_entropy(logits, labels).mean()), rel=1e-5)


def test_flip_mirrors_half_of_the_images():
    image = jnp.arange(2 * 3 * 3, dtype=jnp.uint8).reshape(2, 3, 3)
    flipped = jax.vmap(lambda key: random_flip(key, image))(jax.random.split(jax.random.key(0), 400))
    mirrored = (flipped == image[:, ::-1]).all((1, 2, 3))
    assert (mirrored | (flipped == image).all((1, 2, 3))).all()
    assert 0.4 < mirrored.mean() < 0.6


def test_color_jitter_keeps_the_range_and_means_well():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3)), jnp.uint8)
    jittered = jax.vmap(lambda key: jitter_colors(key, image, 0.4))(jax.random.split(jax.random.key(0), 200))
    assert jittered.min() >= 0 and jittered.max() <= 255
    brightness = jittered.mean((1, 2, 3)) / image.mean()
    assert 0.55 < brightness.min() < 0.75 and 1.1 < brightness.max() < 1.45
    np.testing.assert_allclose(jitter_colors(jax.random.key(0), image, 0.0), image, atol=0.01)


def test_augmentation_depends_on_the_place_alone():
    images = jnp.asarray(batch_of(0)["image"])
    arguments = (Preprocessing(), True, 0.4)
    key = jax.random.key(0)
    whole = augment(key, images, jnp.arange(4), *arguments)
    np.testing.assert_allclose(augment(key, images[2:], jnp.array([2, 3]), *arguments), whole[2:], atol=1e-5)
    assert not np.allclose(augment(jax.random.key(1), images, jnp.arange(4), *arguments), whole, atol=0.01)
    twins = augment(key, images[jnp.array([0, 0])], jnp.arange(2), *arguments)
    assert not np.allclose(twins[0], twins[1], atol=0.01)
