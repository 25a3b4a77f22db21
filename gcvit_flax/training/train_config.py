"""The options of a training run: `TrainOptions` as typed, `TrainConfig` checked."""

import dataclasses
import math
import re
from typing import Any, Literal, NamedTuple

from gcvit_flax.errors import UserError

Pair = tuple[int, int]
Levels = tuple[int, int, int, int]


class _Bounds(NamedTuple):
    """What a number must be, in words and as an interval without its ends where those are `open`."""

    text: str
    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = True

    def hold(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)


POSITIVE = _Bounds("positive", 0, low_open=True)
NOT_NEGATIVE = _Bounds("at least 0", 0)
SHARE = _Bounds("at least 0 and below 1", 0, 1)
PROBABILITY = _Bounds("from 0 to 1", 0, 1, high_open=False)
MAGNITUDE = _Bounds("from 0 to 10", 0, 10, high_open=False)


def _option(default: Any, bounds: _Bounds | None = None, *, free_on_resume: bool = False) -> Any:
    """A field of TrainOptions with its bounds; a run may be resumed with another value if it is `free_on_resume`."""
    return dataclasses.field(default=default, metadata={"bounds": bounds, "free_on_resume": free_on_resume})


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Every option of train.py as it is typed; None stands for the data's, the variant's or the machine's own value.

    The comment above a field is its help.
    """

    # Folder for config.json, metrics, checkpoints and the model; a run that was stopped there is resumed. Default:
    # runs/PRESET.
    workdir: str | None = _option(None, free_on_resume=True)
    # digits, folder:PATH or tfds:NAME.
    data: str | None = _option(None, free_on_resume=True)
    # Published variant, modified by the options below. Default: gcvit_xxtiny, or that of --init-from.
    variant: str | None = None
    # Image side in pixels, or height and width. Default: the variant's, or that of --init-from.
    image_size: int | Pair | None = None
    # Default: as many as the data has.
    num_classes: int | None = None
    # Image channels. If not RGB's 3, they are measured, and colors not augmented. Default: 3, or that of --init-from.
    in_channels: int | None = _option(None, POSITIVE)
    # Which public implementation's forward pass: official, gcvit_tf or keras_io. Default: official, or that of
    # --init-from.
    reference: Literal["official", "gcvit_tf", "keras_io"] | None = None
    # Channels of the first level.
    embed_dim: int | None = None
    # Blocks at each level.
    depths: Levels | None = None
    # Attention heads at each level.
    num_heads: Levels | None = None
    # Window side at each level, in tokens. Default: image side over 32, 32, 16 and 32.
    window_size: Levels | None = None
    # Dropout after the stem, the projections and in the MLPs.
    dropout_rate: float | None = None
    # Stochastic depth of the last block, growing linearly from 0.
    drop_path_rate: float | None = None
    # Model folder whose weights the run starts from; for other classes the head is new.
    init_from: str | None = None
    # Passes over the training data; they set the learning-rate schedule.
    epochs: float = _option(10.0, POSITIVE)
    # Further epochs at the schedule's last learning rate.
    cooldown_epochs: float = _option(0.0, NOT_NEGATIVE)
    # Stop after this many steps without changing the schedule; resume with a higher value to continue.
    max_steps: int | None = _option(None, POSITIVE, free_on_resume=True)
    # Images in a step, over all devices and processes. None: what the variant was published with, 4096 or 1024.
    batch_size: int | None = _option(64, POSITIVE)
    # Parts of each device's share that are computed one after the other (gradient accumulation): the same update with
    # less memory.
    accumulation_steps: int = _option(1, POSITIVE, free_on_resume=True)
    # Peak learning rate.
    learning_rate: float = _option(1e-3, POSITIVE)
    # Take --learning-rate as the rate at the variant's published batch size, and scale it linearly to --batch-size.
    scale_learning_rate: bool = False
    # The learning rate after the warm-up.
    schedule: Literal["cosine", "constant"] = "cosine"
    # Epochs of linear warm-up.
    warmup_epochs: float = _option(1.0, NOT_NEGATIVE)
    # AdamW's weight decay, which spares biases, norms, layer scales and bias tables.
    weight_decay: float = _option(0.05, NOT_NEGATIVE)
    # AdamW's epsilon.
    adam_epsilon: float = _option(1e-8, POSITIVE)
    # Largest global norm of the gradients; None does not clip.
    clip_norm: float | None = _option(5.0, POSITIVE)
    # Factor on the learning rate from each block to the one before it, in runs with --init-from; 1 for none.
    layer_decay: float = _option(1.0, POSITIVE)
    # Train the head alone and leave all else as it is.
    head_only: bool = False
    # Also keep, evaluate and save an exponential moving average of the parameters with this decay per step.
    ema_decay: float | None = _option(None, SHARE)
    # Share of the target spread over all classes.
    label_smoothing: float = _option(0.1, SHARE)
    # Resize whole images to the size, in training and evaluation alike, instead of cropping.
    squash: bool = False
    # Smallest and largest share of an image's area that a random crop takes.
    crop_area: tuple[float, float] = (0.35, 1.0)
    # Mirror half of the images left to right.
    flip: bool = True
    # Strength of the random brightness, contrast and saturation changes, 0 for none; RandAugment replaces it.
    color_jitter: float = _option(0.3, NOT_NEGATIVE)
    # Magnitude of RandAugment, 0 to 10, 0 for none.
    rand_augment: float = _option(0.0, MAGNITUDE)
    # Probability that a random rectangle of an image is replaced by noise (random erasing).
    random_erasing: float = _option(0.0, PROBABILITY)
    # Mixup's beta distribution parameter, 0 for none; with CutMix, each is used with probability one half.
    mixup: float = _option(0.0, NOT_NEGATIVE)
    # CutMix's beta distribution parameter, 0 for none.
    cutmix: float = _option(0.0, NOT_NEGATIVE)
    # Share of the data to hold out if it has no validation part; the same images for every seed.
    val_fraction: float = 0.1
    # Do not stop at images that cannot be read: training replaces them, evaluation leaves them out.
    skip_corrupt: bool = _option(False, free_on_resume=True)
    # Epochs between two evaluations; one comes at the end in any case.
    evaluate_every: float = _option(1.0, POSITIVE, free_on_resume=True)
    # Steps between two checkpoints, besides those after evaluations.
    save_every: int | None = _option(None, POSITIVE, free_on_resume=True)
    # Latest checkpoints to keep, besides the best.
    keep: int = _option(2, POSITIVE, free_on_resume=True)
    # Decides the initial weights, the order of the data and everything random.
    seed: int = _option(0, NOT_NEGATIVE)
    # Dtype that the layers compute in; parameters, statistics and losses are float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Recompute each block in the backward pass: less memory, more time.
    remat: bool = _option(False, free_on_resume=True)
    # Devices to train on, of each process. Default: all, or on a CPU one per core, as many as divide the batch.
    devices: int | None = _option(None, free_on_resume=True)
    # Worker processes that decode images; 0 uses threads.
    workers: int = _option(0, NOT_NEGATIVE, free_on_resume=True)
    # Address HOST:PORT of the first of several processes. Default: detected on Cloud TPU, Slurm and Kubernetes, or
    # JAX_COORDINATOR_ADDRESS.
    coordinator: str | None = _option(None, free_on_resume=True)
    # How many processes train together, if that is not detected.
    num_processes: int | None = _option(None, free_on_resume=True)
    # This process's number, from 0.
    process_id: int | None = _option(None, free_on_resume=True)
    # Steps between two lines of metrics.
    log_every: int = _option(20, POSITIVE, free_on_resume=True)
    # Steps START:STOP to trace into WORKDIR/profile, for TensorBoard or Perfetto.
    profile: str | None = _option(None, free_on_resume=True)
    # Resume the run in the workdir; --no-resume replaces it.
    resume: bool = _option(True, free_on_resume=True)


@dataclasses.dataclass(frozen=True)
class TrainConfig(TrainOptions):
    """The options of a training run, checked.

    Raises:
      UserError: (a ValueError) an option that is out of range.
    """

    @property
    def data_spec(self) -> str:
        """`data`, or a UserError: not every preset has any."""
        if self.data is None:
            raise UserError("this preset has no data of its own: give --data folder:PHOTOS or --data tfds:NAME")
        return self.data

    @property
    def global_batch(self) -> int:
        """Images in a step, over all devices and processes, once `resolve_defaults` has set it."""
        assert self.batch_size is not None
        return self.batch_size

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, bounds = getattr(self, field.name), field.metadata.get("bounds")
            if bounds is not None and value is not None and not bounds.hold(value):
                raise UserError(f"--{field.name.replace('_', '-')} must be {bounds.text}, got {value}")
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise UserError(f"--crop-area must be two shares, above 0, at most 1 and in order, got {low} {high}")
        if self.profile is not None:
            span = re.fullmatch(r"(\d+):(\d+)", self.profile)
            if not span or not 1 <= int(span[1]) <= int(span[2]):
                raise UserError(f"--profile must be START:STOP in steps from 1, such as 20:25, got {self.profile!r}")


# Options that may change on resume: where the run goes on and how far, where its data lies (of which a summary is
# compared), how much memory it takes, and what it shows, keeps or skips.
FREE_ON_RESUME = frozenset(
    field.name for field in dataclasses.fields(TrainConfig) if field.metadata.get("free_on_resume")
)
