"""What a training run is: one frozen dataclass."""

import dataclasses
from typing import Literal

Pair = tuple[int, int]
Levels = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Every option of train.py; None means the value that the data, the variant or the machine suggests."""

    # Where config.json, metrics, checkpoints and the model go; a run that was stopped there goes on. Default:
    # runs/PRESET.
    workdir: str | None = None
    # digits, folder:PATH or tfds:NAME.
    data: str | None = None
    # A published variant, which the options below replace parts of. Default: gcvit_xxtiny, or that of --init-from.
    variant: str | None = None
    # Image side in pixels, or height and width. Default: the variant's, or that of --init-from.
    image_size: int | Pair | None = None
    # Default: as many as the data has.
    num_classes: int | None = None
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
    # A model folder whose weights the run starts from; a head for other classes starts anew.
    init_from: str | None = None
    # Passes over the training data; they set the learning-rate schedule.
    epochs: float = 10.0
    # Further epochs at the schedule's last learning rate.
    cooldown_epochs: float = 0.0
    # Stop after so many steps at the latest, on the same schedule; a higher value later goes on from there.
    max_steps: int | None = None
    # Images in a step, over all devices and hosts. None: what the variant was published with, 4096 or 1024.
    batch_size: int | None = 64
    # Parts of each device's share that are computed one after the other: the same update in less memory.
    accumulation_steps: int = 1
    # Peak learning rate.
    learning_rate: float = 1e-3
    # Take --learning-rate as that of the variant's published batch, and scale it in proportion to this batch.
    scale_learning_rate: bool = False
    # How the learning rate goes on after the warm-up.
    schedule: Literal["cosine", "constant"] = "cosine"
    # Epochs of linear warm-up.
    warmup_epochs: float = 1.0
    # AdamW's decay of the weights (not of biases, norms, layer scales and bias tables).
    weight_decay: float = 0.05
    # AdamW's epsilon.
    adam_epsilon: float = 1e-8
    # Largest global norm of the gradients; None does not clip.
    clip_norm: float | None = 5.0
    # Factor on the learning rate from each block to the one before it, in a run with --init-from; 1 for none.
    layer_decay: float = 1.0
    # Train the head alone and leave all else as it is.
    head_only: bool = False
    # Also keep, evaluate and save an exponential moving average of the parameters with this decay a step.
    ema_decay: float | None = None
    # Share of the target spread over all classes.
    label_smoothing: float = 0.1
    # Resize whole images to the size, in training and evaluation alike, instead of cropping.
    squash: bool = False
    # Smallest and largest share of an image's area that a random crop takes.
    crop_area: tuple[float, float] = (0.35, 1.0)
    # Mirror half of the images left to right.
    flip: bool = True
    # Strength of the random brightness, contrast and saturation changes, 0 for none; RandAugment replaces it.
    color_jitter: float = 0.3
    # Magnitude of RandAugment, 0 to 10, 0 for none.
    rand_augment: float = 0.0
    # Share of the images that lose a random rectangle to noise.
    random_erasing: float = 0.0
    # Mixup's beta distribution parameter, 0 for none; with CutMix, each takes half of the steps.
    mixup: float = 0.0
    # CutMix's beta distribution parameter, 0 for none.
    cutmix: float = 0.0
    # Share of the data to hold out where it has no validation part; the same images for every seed.
    val_fraction: float = 0.1
    # Count and pass over images that cannot be read, instead of stopping at the first.
    skip_corrupt: bool = False
    # Epochs between two evaluations; one comes at the end in any case.
    evaluate_every: float = 1.0
    # Steps between two checkpoints, beside those after evaluations.
    save_every: int | None = None
    # Latest checkpoints to keep, beside the best.
    keep: int = 2
    # Decides the initial weights, the order of the data and everything random.
    seed: int = 0
    # What the layers compute in; parameters, statistics and losses are float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Recompute each block in the backward pass: less memory, more time.
    remat: bool = False
    # Devices to train on, on each host. Default: all, or on CPU one a core that divides the batch.
    devices: int | None = None
    # Processes that decode images; 0 decodes in threads.
    workers: int = 0
    # Address HOST:PORT of the first of several hosts. Default: found out on Cloud TPU, Slurm and Kubernetes, or
    # JAX_COORDINATOR_ADDRESS.
    coordinator: str | None = None
    # How many hosts train together, where it cannot be found out.
    num_processes: int | None = None
    # This host's number, from 0.
    process_id: int | None = None
    # Steps between two lines of metrics.
    log_every: int = 20
    # Steps START:STOP to trace into WORKDIR/profile, for TensorBoard or Perfetto.
    profile: str | None = None
    # Go on where the run in the workdir stopped; --no-resume replaces it.
    resume: bool = True


# Options that may change when a run is taken up again: where it runs, how far, and what it shows, keeps or passes over.
FREE_ON_RESUME = frozenset(
    {
        *("workdir", "resume", "max_steps", "log_every", "workers", "devices", "save_every", "keep", "profile"),
        *("coordinator", "num_processes", "process_id", "evaluate_every", "skip_corrupt"),
    }
)
