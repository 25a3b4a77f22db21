"""The package gcvit, which the Keras example comes from, as a peer in `benchmarks.compare`, on TensorFlow.

gcvit 1.1.6 calls set_shape, which the tensors of Keras' JAX and PyTorch backends do not have.
"""

import importlib.util
import os

import numpy as np

from benchmarks.ours import CLASSES, training_config
from gcvit_flax.errors import UserError
from gcvit_flax.training.report.timing import peak_memory

_INSTALL = "pip install tensorflow-cpu==2.21.0 keras==3.15.1 && pip install --no-deps gcvit==1.1.6"
_NAMES = {"gcvit_xxtiny": "GCViTXXTiny", "gcvit_xtiny": "GCViTXTiny", "gcvit_tiny": "GCViTTiny"}
_NAMES |= {"gcvit_small": "GCViTSmall", "gcvit_base": "GCViTBase", "gcvit_large": "GCViTLarge"}


class Side:
    """The Keras model's compiled forward pass (predict_on_batch) or training step (train_on_batch)."""

    def __init__(self, options):
        os.environ["KERAS_BACKEND"] = "tensorflow"
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        if importlib.util.find_spec("keras") is None or importlib.util.find_spec("gcvit") is None:
            raise UserError(f"--peer keras needs Keras and the package gcvit, which are not installed here: {_INSTALL}")
        if options.variant not in _NAMES:
            raise UserError(f"the package gcvit has no {options.variant}: choose one of {', '.join(_NAMES)}")
        import gcvit
        import keras

        if options.dtype != "float32":
            keras.config.set_dtype_policy("mixed_bfloat16")
        self.what = f"gcvit 1.1.6, Keras {keras.__version__} on {keras.backend.backend()}"
        shape = (options.image_size, options.image_size, 3)
        model = getattr(gcvit, _NAMES[options.variant])(input_shape=shape, head_act=None)
        rng = np.random.default_rng(0)
        images = rng.normal(size=(options.batch, *shape)).astype(np.float32)
        labels = rng.integers(0, CLASSES, options.batch)
        config = training_config(options)
        optimizer = keras.optimizers.AdamW(1e-4, weight_decay=config.weight_decay, global_clipnorm=config.clip_norm)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        if options.task == "infer":
            self.run = lambda: np.asarray(model.predict_on_batch(images))
        else:
            self.run = lambda: np.asarray(model.train_on_batch(images, labels))

    def peak_memory(self) -> float:
        """GiB, of this process."""
        return peak_memory([])
