"""The length of a run, its learning rates, and the steps at which it evaluates and saves."""

import dataclasses
import math
from collections.abc import Callable

from gcvit_flax.config import GCViTConfig
from gcvit_flax.training.schedules import constant_schedule, cosine_schedule
from gcvit_flax.training.train_config import TrainConfig

_GCVIT_SMALL_EMBED_DIM = 96
_BATCH_TO_TINY2, _BATCH_FROM_SMALL = 4096, 1024  # The published ones.


def resolve_defaults(config: TrainConfig, model_config: GCViTConfig) -> TrainConfig:
    """`config` with batch size and learning rate filled in for the network, and layer decay only with `init_from`.

    The published recipe is for 4096 images a step up to gcvit_tiny2 and 1024 from gcvit_small on (128 and 32 images
    on each of 32 GPUs); the rate scales linearly with the batch (Goyal et al., 2017).
    """
    published = _BATCH_TO_TINY2 if model_config.embed_dim < _GCVIT_SMALL_EMBED_DIM else _BATCH_FROM_SMALL
    batch_size = config.batch_size or published
    rate = config.learning_rate * (batch_size / published if config.scale_learning_rate else 1)
    layer_decay = config.layer_decay if config.init_from else 1.0  # Fresh layers have nothing to preserve.
    return dataclasses.replace(
        config, batch_size=batch_size, learning_rate=rate, scale_learning_rate=False, layer_decay=layer_decay
    )


def batch_unit(config: TrainConfig) -> int:
    """What each device's share of a batch must be a multiple of: parts are equal, and Mixup and CutMix pair images."""
    return config.accumulation_steps * (2 if config.mixup or config.cutmix else 1)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of the schedule, the last one of this run, and those that end in an evaluation or a checkpoint."""

    config: TrainConfig
    examples: int

    def _steps(self, epochs: float) -> int:
        return round(epochs * self.examples / self.config.global_batch)

    @property
    def total_steps(self) -> int:
        """Steps of the whole schedule, its cool-down included."""
        return max(1, self._steps(self.config.epochs + self.config.cooldown_epochs))

    @property
    def last_step(self) -> int:
        """The step at which this run stops."""
        return min(self.total_steps, self.config.max_steps or self.total_steps)

    @property
    def schedule(self) -> Callable[[int], float]:
        """The learning rate as a function of the number of completed steps."""
        rate, warmup_steps = self.config.learning_rate, self._steps(self.config.warmup_epochs)
        if self.config.schedule == "constant":
            return constant_schedule(rate, warmup_steps)
        return cosine_schedule(rate, warmup_steps, max(1, self._steps(self.config.epochs)))

    def epochs(self, step: int) -> float:
        """Passes over the data after `step` steps; a fraction, since batches run across an epoch's end."""
        return step * self.config.global_batch / self.examples

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows `step`: once every `evaluate_every` epochs, and at the end."""
        # Rounded, so that three times a tenth of an epoch is three tenths of one.
        now, before = (math.floor(round(self.epochs(s) / self.config.evaluate_every, 9)) for s in (step, step - 1))
        return now > before or step >= self.last_step

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows `step`: after each evaluation, and every `save_every` steps."""
        every = self.config.save_every
        return self.evaluates(step) or (every is not None and step % every == 0)
