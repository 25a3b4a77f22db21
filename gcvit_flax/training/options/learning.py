"""How a network learns."""

import dataclasses
from typing import Literal

from gcvit_flax.training.options.bounds import NOT_NEGATIVE, POSITIVE, SHARE, option


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """How long, in which steps and at which learning rates."""

    # Passes over the training data; they set the learning-rate schedule.
    epochs: float = option(10.0, POSITIVE)
    # Further epochs at the schedule's last learning rate.
    cooldown_epochs: float = option(0.0, NOT_NEGATIVE)
    # Stop after this many steps without changing the schedule; resume with a higher value to continue.
    max_steps: int | None = option(None, POSITIVE, free_on_resume=True)
    # Images in a step, over all devices and processes. None: what the variant was published with, 4096 or 1024.
    batch_size: int | None = option(64, POSITIVE)
    # Peak learning rate.
    learning_rate: float = option(1e-3, POSITIVE)
    # Take --learning-rate as the rate at the variant's published batch size, and scale it linearly to --batch-size.
    scale_learning_rate: bool = False
    # The learning rate after the warm-up.
    schedule: Literal["cosine", "constant"] = "cosine"
    # Epochs of linear warm-up.
    warmup_epochs: float = option(1.0, NOT_NEGATIVE)
    # Learning rate at which the warm-up starts, never scaled. Default: 1e-6, or the peak if that is lower.
    warmup_learning_rate: float | None = option(None, NOT_NEGATIVE)
    # Learning rate at which the cosine ends, never scaled. Default: a thousandth of the peak.
    final_learning_rate: float | None = option(None, NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """What gradients do to the parameters."""

    # Weight decay is decoupled from the gradients in all of them.
    optimizer: Literal["adamw", "lamb", "lion", "sgd"] = "adamw"
    # Decay of the moments of AdamW, LAMB and Lion. Default: 0.9 0.999, for Lion 0.9 0.99.
    betas: tuple[float, float] | None = option(None, SHARE)
    # Momentum of SGD. Default: 0.9.
    momentum: float | None = option(None, SHARE)
    # AdamW's and LAMB's epsilon.
    adam_epsilon: float = option(1e-8, POSITIVE)
    # Weight decay, which spares biases, norms, layer scales and bias tables.
    weight_decay: float = option(0.05, NOT_NEGATIVE)
    # Largest global norm of the gradients; None does not clip.
    clip_norm: float | None = option(5.0, POSITIVE)
    # Factor on the learning rate from each block to the one before it, in runs with --init-from; 1 for none.
    layer_decay: float = option(1.0, POSITIVE)
    # Also keep, evaluate and save an exponential moving average of the parameters with this decay per step.
    ema_decay: float | None = option(None, SHARE)
    # Epochs after which the average starts; until then it is the parameters.
    ema_start: float = option(0.0, NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What is minimized in training; evaluation always reports the cross-entropy."""

    # Binary cross-entropy, a mean over the classes, has the target 1 for each class that Mixup or CutMix left in.
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    # Share of the target spread over all classes.
    label_smoothing: float = option(0.1, SHARE)
