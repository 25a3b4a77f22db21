"""timm's networks, for its own side of the benchmarks and for the runtimes that are given them."""

from gcvit_flax.errors import UserError
from gcvit_flax.variants import VARIANTS

INSTALL = "pip install torch==2.13.0 && pip install --no-deps torchvision==0.28.0 && pip install timm==1.0.31"


def create(variant: str, image_size: int, *, train: bool = False):
    """timm's network of a variant, with random weights, and with our drop path if it is for training.

    Raises:
      UserError: (a ValueError) timm has no such variant.
    """
    from benchmarks.timm_import import timm

    names = timm.list_models("gcvit*")
    if variant not in names:
        raise UserError(f"timm has no {variant}: choose one of {', '.join(names)}")
    rate = VARIANTS[variant].drop_path_rate if train else 0.0
    return timm.create_model(variant, img_size=image_size, drop_path_rate=rate)
