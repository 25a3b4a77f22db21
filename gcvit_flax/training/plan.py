"""How long a run is."""

import dataclasses

from gcvit_flax.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many steps the schedule has, where this run stops, and which steps end an epoch."""

    examples: int
    batch_size: int
    total_steps: int
    last_step: int

    @classmethod
    def of(cls, config: TrainConfig, examples: int) -> "Plan":
        """The plan for a training set of `examples` images."""
        total = max(1, round(config.epochs * examples / config.batch_size))
        return cls(examples, config.batch_size, total, min(total, config.max_steps or total))

    def epochs(self, step: int) -> float:
        """Passes over the data after `step` steps; batches run across an epoch's end, so it is seldom whole."""
        return step * self.batch_size / self.examples

    def ends_epoch(self, step: int) -> bool:
        """Whether the run evaluates and saves after `step` steps: once an epoch, and at the end."""
        whole, before = (s * self.batch_size // self.examples for s in (step, step - 1))
        return whole > before or step == self.last_step
