"""The options of a training run: `TrainOptions` as typed, `TrainConfig` checked."""

import dataclasses
import re

from gcvit_flax.data.training_subset import TrainingSubset
from gcvit_flax.errors import UserError
from gcvit_flax.training.options.architecture import NetworkOptions
from gcvit_flax.training.options.bounds import problem
from gcvit_flax.training.options.inputs import AugmentationOptions, DataOptions
from gcvit_flax.training.options.learning import LossOptions, OptimizerOptions, ScheduleOptions
from gcvit_flax.training.options.running import DeviceOptions, ReportOptions, RunOptions


@dataclasses.dataclass(frozen=True)
class TrainOptions(
    RunOptions,
    DataOptions,
    NetworkOptions,
    ScheduleOptions,
    OptimizerOptions,
    LossOptions,
    AugmentationOptions,
    DeviceOptions,
    ReportOptions,
):
    """Every option of train.py as it is typed; None stands for the data's, the variant's or the machine's own value."""


@dataclasses.dataclass(frozen=True)
class TrainConfig(TrainOptions):
    """The options of a training run, checked.

    Raises:
      UserError: (a ValueError) an option that is out of range, or that another one leaves without effect.
    """

    @property
    def data_spec(self) -> str:
        """`data`, or a UserError: not every preset has any."""
        if self.data is None:
            raise UserError("this preset has no data of its own: give --data folder:PHOTOS, tfds:NAME or hf:NAME")
        return self.data

    @property
    def subset(self) -> TrainingSubset:
        """The training images that are used."""
        return TrainingSubset(self.train_fraction, self.shots, self.subset_seed)

    @property
    def global_batch(self) -> int:
        """Images in a step, over all devices and processes, once `resolve_defaults` has set it."""
        assert self.batch_size is not None
        return self.batch_size

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if found := problem(field, getattr(self, field.name)):
                raise UserError(f"--{field.name.replace('_', '-')} {found}")
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise UserError(f"--crop-area must be two shares, above 0, at most 1 and in order, got {low} {high}")
        if self.profile is not None:
            span = re.fullmatch(r"(\d+):(\d+)", self.profile)
            if not span or not 1 <= int(span[1]) <= int(span[2]):
                raise UserError(f"--profile must be START:STOP in steps from 1, such as 20:25, got {self.profile!r}")
        if (self.mean is None) != (self.std is None):
            raise UserError("--mean and --std go together, with one number for each channel: give both or neither")
        if self.train_fraction is not None and self.shots is not None:
            raise UserError("--train-fraction and --shots both choose the training images: leave one of them out")
        self._check_effects()

    def _check_effects(self) -> None:
        """Refuses options that another one leaves without effect: a sweep over them would compare equal runs."""
        given = {field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default}
        mixes = {"mixup", "cutmix"} & given
        for name, has_effect, why in (
            ("betas", self.optimizer != "sgd", "--optimizer sgd has --momentum instead"),
            ("momentum", self.optimizer == "sgd", "give --optimizer sgd with it"),
            ("final_learning_rate", self.schedule == "cosine", "give --schedule cosine with it"),
            ("warmup_learning_rate", self.warmup_epochs, "give --warmup-epochs with it"),
            ("mix_off_epoch", mixes, "give --mixup or --cutmix with it"),
            ("ema_start", self.ema_decay, "give --ema-decay with it"),
            ("subset_seed", self.train_fraction or self.shots, "give --train-fraction or --shots with it"),
            ("crop_interpolation", not self.squash, "--squash crops nothing, give --no-squash with it"),
        ):
            if name in given and not has_effect:
                raise UserError(f"--{name.replace('_', '-')} has no effect here: {why}, or leave it out")


# Options that may change on resume: where the run goes on and how far, where its data lies (of which a summary is
# compared), how much memory it takes, and what it shows, keeps or skips.
FREE_ON_RESUME = frozenset(
    field.name for field in dataclasses.fields(TrainConfig) if field.metadata.get("free_on_resume")
)
