import jax
import numpy as np
import pytest
from small import TINY

from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.training.pmapped import replicate, shard
from gcvit_flax.training.steps import create_train_state, make_train_step
from gcvit_flax.training.train_config import TrainConfig

pytestmark = pytest.mark.soak


def test_dropout_differs_between_device_counts_by_its_masks_alone():
    """Masks are drawn per device: losses differ from step to step, but not in their distribution."""
    model, config = create_model(TINY, dropout_rate=0.2, drop_path_rate=0.2), TrainConfig(batch_size=4)
    initial = jax.device_get(create_train_state(model, init_params(model, jax.random.key(0)), config))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8),
        "label": rng.integers(0, 3, 4).astype(np.int32),
        "index": np.arange(4, dtype=np.int32),
    }
    losses = []
    for devices in (jax.local_devices()[:1], jax.local_devices()[:2]):
        step, state = make_train_step(model, config, devices), replicate(initial, devices)
        for _ in range(200):  # At a learning rate of 0 only the step changes, and with it all random draws.
            state, metrics = step(state, shard(batch, devices), jax.random.key(0), np.float32(0))
            losses.append(float(metrics["train_loss"]))
    one, two = np.reshape(losses, (2, 200))
    difference = one - two
    print(f"losses {one.mean():.4f} +- {one.std():.4f} and {two.mean():.4f} +- {two.std():.4f}")
    assert 0 < np.abs(difference).max() < 6 * one.std()
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))
