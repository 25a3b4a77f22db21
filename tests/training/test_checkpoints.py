import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.experimental import multihost_utils
from small import TINY, full_disk

from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.training.checkpoints import Checkpoints
from gcvit_flax.training.steps import TrainState, create_train_state
from gcvit_flax.training.train_config import TrainConfig


def state_at(step: int, size: int = 5) -> TrainState:
    noise = np.random.default_rng(step).normal(size=size)  # Which does not compress.
    params = {"head": {"kernel": jnp.float32(noise), "bias": jnp.arange(3.0)}}
    return TrainState(jnp.int32(step), None, params, None, {"mu": -params["head"]["bias"]}, None)


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    return epath.Path(tmp_path) / "checkpoints"


def test_the_last_and_the_best_are_kept_over_several_runs(folder):
    for steps in ((1, 2, 3), (4, 5, 6)):
        with Checkpoints(folder, keep=2) as checkpoints:
            checkpoints.best_step = 2 if steps[0] > 1 else None
            for step in steps:
                checkpoints.save(state_at(step))
                if step == 2:  # Known after it is saved.
                    checkpoints.best_step = 2
    assert sorted(int(path.name) for path in folder.iterdir()) == [2, 5, 6]


def test_the_newest_comes_back_whole_and_on_the_host(folder):
    with Checkpoints(folder, keep=2) as checkpoints:
        assert checkpoints.latest_step is None
        checkpoints.save(state_at(3))
        checkpoints.save(state_at(3))  # A second time is no error.
    with Checkpoints(folder, keep=2) as checkpoints:
        state = checkpoints.restore(jax.eval_shape(lambda: state_at(0)))
    assert int(state.step) == 3 and state.ema_params is None
    assert isinstance(state.params["head"]["bias"], np.ndarray)
    jax.tree.map(np.testing.assert_array_equal, state.params, state_at(3).params)
    np.testing.assert_array_equal(state.opt_state["mu"], [0, -1, -2])


def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_checkpoint(folder):
    big = state_at(2, 100_000)
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(state_at(1, 100_000))
    with (
        pytest.raises(ValueError, match=r"a checkpoint cannot be written in .*checkpoints \(.+\): make room"),
        Checkpoints(folder, keep=1) as checkpoints,
        full_disk(),
    ):
        checkpoints.save(big)
        checkpoints.save(state_at(3, 100_000))
    with Checkpoints(folder, keep=1) as checkpoints:
        assert checkpoints.latest_step == 1
        state = checkpoints.restore(jax.eval_shape(lambda: big))
    jax.tree.map(np.testing.assert_array_equal, state.params, state_at(1, 100_000).params)


def test_the_last_save_fails_aloud_too(folder):
    """It is written in the background, so that only the end of the block can tell."""
    with (
        full_disk(),
        pytest.raises(ValueError, match="a checkpoint cannot be written"),
        Checkpoints(folder, keep=1) as checkpoints,
    ):
        checkpoints.save(state_at(1, 100_000))


def test_a_checkpoint_of_another_model_or_a_damaged_one_is_named(folder):
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(state_at(7))
        with pytest.raises(ValueError, match=r"checkpoint 7 in .*params/head/kernel \(5,\) instead of \(6,\)"):
            checkpoints.restore(jax.eval_shape(lambda: state_at(0, size=6)))
    (folder / "7" / "checksums.txt").unlink()  # An earlier version's checkpoint has none.
    for path in folder.glob("7/default/d/*"):
        path.write_bytes(b"")
    with Checkpoints(folder, keep=2) as checkpoints, pytest.raises(ValueError, match="cannot be restored"):
        checkpoints.restore(jax.eval_shape(lambda: state_at(0)))


def test_a_checkpoint_with_other_names_is_refused_in_one_sentence(folder):
    """Such as one of a version that kept the parameters in a vector, or that called a layer otherwise."""
    state = state_at(7)
    packed = state.replace(params={"kernel": {"head/kernel": state.params["head"]["kernel"]}, "rest": jnp.zeros(3)})
    renamed = state.replace(params={"top": state.params["head"]})
    for other, missing in ((packed, "2 missing: params/head/bias, "), (renamed, "2 missing: params/head/bias, ")):
        with Checkpoints(folder, keep=1) as checkpoints:
            checkpoints.save(other)
        with Checkpoints(folder, keep=1) as checkpoints, pytest.raises(UserError) as refusal:
            checkpoints.restore(jax.eval_shape(lambda: state))
        message = str(refusal.value)
        assert missing in message and "2 unexpected: params/" in message and "--no-resume" in message
        assert "\n" not in message
        folder.rmtree()


def test_of_many_names_the_refusal_lists_a_few(folder):
    state = state_at(7)
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(state)
    more = state.replace(params={f"layer {index}": jnp.zeros(2) for index in range(9)})
    with Checkpoints(folder, keep=1) as checkpoints, pytest.raises(UserError) as refusal:
        checkpoints.restore(jax.eval_shape(lambda: more))
    assert "9 missing: params/layer 0, params/layer 1, params/layer 2 and 6 more;" in str(refusal.value)
    assert "or choose another --workdir; --no-resume would delete that run" in str(refusal.value)


def test_missing_metadata_is_damage_and_not_another_network(folder):
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(state_at(7))
    (folder / "7" / "checksums.txt").unlink()  # An earlier version's checkpoint has none.
    (folder / "7" / "default" / "_METADATA").unlink()
    with Checkpoints(folder, keep=1) as checkpoints, pytest.raises(UserError, match="remove that step's folder"):
        checkpoints.restore(jax.eval_shape(lambda: state_at(0)))


@pytest.mark.parametrize("options", [{"head_only": True}, {"layer_decay": 0.5}, {"ema_decay": 0.9}])
def test_every_kind_of_optimizer_state_comes_back(folder, options):
    model, config = create_model(TINY), TrainConfig(init_from="somewhere", **options)
    state = create_train_state(model, init_params(model, jax.random.key(0)), config)
    state = jax.tree.map(lambda x: np.asarray(x + 1), state)
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(state)
    with Checkpoints(folder, keep=1) as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(lambda: state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_a_save_does_not_ask_for_preemption(folder, monkeypatch):
    """The run asks by a number of its own, and JAX's service would take Orbax's, the step, for another answer."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: asked.append(step))
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(state_at(1))
        checkpoints.save(state_at(2))
    assert not asked
