"""What a training run is: one frozen dataclass, and presets that are differences to it."""

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
    data: str = "digits"
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
    # Stop after so many steps at the latest, on the same schedule; a higher value later goes on from there.
    max_steps: int | None = None
    # Images in a step, over all devices and hosts.
    batch_size: int = 64
    # Peak learning rate.
    learning_rate: float = 1e-3
    # Epochs of linear warm-up.
    warmup_epochs: float = 1.0
    # AdamW's decay of the weights (not of biases, norms, layer scales and bias tables).
    weight_decay: float = 0.05
    # Largest global norm of the gradients.
    clip_norm: float = 5.0
    # Share of the target spread over all classes.
    label_smoothing: float = 0.1
    # Smallest and largest share of an image's area that a random crop takes.
    crop_area: tuple[float, float] = (0.35, 1.0)
    # Mirror half of the images left to right.
    flip: bool = True
    # Strength of the random brightness, contrast and saturation changes, 0 for none.
    color_jitter: float = 0.3
    # Share of the data to hold out where it has no validation part; the same images for every seed.
    val_fraction: float = 0.1
    # Decides the initial weights, the order of the data and everything random.
    seed: int = 0
    # What the layers compute in; parameters, statistics and losses are float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Recompute each block in the backward pass: less memory, more time.
    remat: bool = False
    # Devices to train on. Default: all, or on CPU one a core that divides the batch.
    devices: int | None = None
    # Processes that decode images; 0 decodes in threads.
    workers: int = 0
    # Steps between two lines of metrics.
    log_every: int = 20
    # Go on where the run in the workdir stopped; --no-resume replaces it.
    resume: bool = True


# Options that may change when a run is taken up again: they do not shape what it computes.
FREE_ON_RESUME = frozenset({"workdir", "resume", "max_steps", "log_every", "workers", "devices"})

PRESETS = {
    "digits": TrainConfig(
        embed_dim=32,
        depths=(2, 2, 2, 2),
        num_heads=(2, 4, 8, 16),
        window_size=(4, 4, 2, 1),
        drop_path_rate=0.05,
        image_size=32,
        epochs=15.0,
        learning_rate=2e-3,
        crop_area=(0.6, 1.0),
        flip=False,
        color_jitter=0.0,
        val_fraction=0.2,
    ),
    "finetune": TrainConfig(
        epochs=20.0,
        batch_size=32,
        learning_rate=5e-4,
    ),
}

PRESET_HELP = {
    "digits": """Learns the 1,797 handwritten digits that come with the package.

    python train.py
    """,
    "finetune": """Trains any variant on a folder of images or a prepared data set, from scratch or --init-from.

    python train.py finetune --data folder:PHOTOS --image-size 128 --init-from MODEL_DIR
    """,
}
