"""GCViT, the Global Context Vision Transformer, in JAX and Flax.

The public names are imported on first use, so that `import gcvit_flax` is quick and starts no device.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Backbone": "gcvit_flax.model.backbone",
    "GCViT": "gcvit_flax.model.gcvit",
    "GCViTConfig": "gcvit_flax.config",
    "Preprocessing": "gcvit_flax.config",
    "Predictor": "gcvit_flax.inference",
    "REFERENCES": "gcvit_flax.references",
    "UserError": "gcvit_flax.errors",
    "VARIANTS": "gcvit_flax.variants",
    "attention_map": "gcvit_flax.visualize.attention_weights",
    "attention_weights": "gcvit_flax.visualize.attention_weights",
    "convert": "gcvit_flax.weights.convert",
    "create_model": "gcvit_flax.model.gcvit",
    "fuse_parameters": "gcvit_flax.model.fuse",
    "grad_cam": "gcvit_flax.visualize.grad_cam",
    "init_params": "gcvit_flax.model.init",
    "load_model": "gcvit_flax.weights.model_folder",
    "preprocess": "gcvit_flax.data.preprocess",
    "save_model": "gcvit_flax.weights.model_folder",
    "simulate_devices": "gcvit_flax.devices",
    "write_weights": "gcvit_flax.weights.write",
}
_FORMER_NAMES = {"fold_for_inference": "fuse_parameters"}
__all__ = [*_HOMES]

if TYPE_CHECKING:  # For editors and type checkers, which do not run the code below.
    from gcvit_flax.config import GCViTConfig as GCViTConfig
    from gcvit_flax.config import Preprocessing as Preprocessing
    from gcvit_flax.data.preprocess import preprocess as preprocess
    from gcvit_flax.devices import simulate_devices as simulate_devices
    from gcvit_flax.errors import UserError as UserError
    from gcvit_flax.inference import Predictor as Predictor
    from gcvit_flax.model.backbone import Backbone as Backbone
    from gcvit_flax.model.fuse import fuse_parameters as fuse_parameters
    from gcvit_flax.model.gcvit import GCViT as GCViT
    from gcvit_flax.model.gcvit import create_model as create_model
    from gcvit_flax.model.init import init_params as init_params
    from gcvit_flax.references import REFERENCES as REFERENCES
    from gcvit_flax.variants import VARIANTS as VARIANTS
    from gcvit_flax.visualize.attention_weights import attention_map as attention_map
    from gcvit_flax.visualize.attention_weights import attention_weights as attention_weights
    from gcvit_flax.visualize.grad_cam import grad_cam as grad_cam
    from gcvit_flax.weights.convert import convert as convert
    from gcvit_flax.weights.model_folder import load_model as load_model
    from gcvit_flax.weights.model_folder import save_model as save_model
    from gcvit_flax.weights.write import write_weights as write_weights


def __getattr__(name: str) -> Any:
    name = _FORMER_NAMES.get(name, name)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
