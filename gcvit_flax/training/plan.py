"""The length of a run, its learning rates, and the steps at which it evaluates and saves."""

import dataclasses
import math
from collections.abc import Callable

from gcvit_flax.config import GCViTConfig
from gcvit_flax.errors import UserError
from gcvit_flax.training.schedules import constant_schedule, cosine_schedule
from gcvit_flax.training.train_config import TrainConfig

_GCVIT_SMALL_EMBED_DIM = 96
_BATCH_TO_TINY2, _BATCH_FROM_SMALL = 4096, 1024  # The published ones.


def resolve_defaults(config: TrainConfig, model_config: GCViTConfig) -> TrainConfig:
    """`config` with batch size and learning rate filled in for the network, and layer decay only with `init_from`.

    The published recipe is for 4096 images a step up to gcvit_tiny2 and 1024 from gcvit_small on (128 and 32 images
    on each of 32 GPUs); the rate scales linearly with the batch (Goyal et al., 2017).

    Raises:
      UserError: (a ValueError) a schedule that starts or ends above its peak.
    """
    published = _BATCH_TO_TINY2 if model_config.embed_dim < _GCVIT_SMALL_EMBED_DIM else _BATCH_FROM_SMALL
    batch_size = config.batch_size or published
    rate = config.learning_rate * (batch_size / published if config.scale_learning_rate else 1)
    for name in ("warmup_learning_rate", "final_learning_rate"):
        if (end := getattr(config, name) or 0.0) > rate:
            option = name.replace("_", "-")
            raise UserError(f"--{option} must be at most the peak learning rate, which is {rate:g}, got {end:g}")
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
        config = self.config
        rate, warmup_steps = config.learning_rate, self._steps(config.warmup_epochs)
        if config.schedule == "constant":
            return constant_schedule(rate, warmup_steps, config.warmup_learning_rate)
        cosine_steps = max(1, self._steps(config.epochs))
        return cosine_schedule(
            rate, warmup_steps, cosine_steps, config.warmup_learning_rate, config.final_learning_rate
        )

    @property
    def mix_off_step(self) -> int | None:
        """The number of completed steps from which on nothing is mixed; None for never."""
        epoch = self.config.mix_off_epoch
        return None if epoch is None else self._steps(epoch)

    @property
    def ema_start_step(self) -> int:
        """The number of completed steps after which the parameters are averaged."""
        return self._steps(self.config.ema_start)

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
