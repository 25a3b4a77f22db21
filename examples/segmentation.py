"""Semantic segmentation on a GCViT backbone: `python examples/segmentation.py [--steps 300] [--init-from MODEL_DIR]`.

A feature pyramid (Lin et al., 2017) sums the levels into one map of stride 4, from which each pixel's class is
predicted (the semantic branch of Kirillov et al., 2019). The data are generated: discs, squares and triangles of any
color on a noisy background. Prints the mean intersection over union on images that were not trained on.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image, ImageDraw

import gcvit_flax
from gcvit_flax.cli import run_cli
from gcvit_flax.data.preprocess import normalize

CLASSES = ("ground", "disc", "square", "triangle")
SIZE = (64, 96)  # (height, width): not square and not a multiple of the windows, so the backbone pads.


class Segmenter(nn.Module):
    """Normalized images (B, H, W, 3) to logits (B, H, W, classes)."""

    backbone: gcvit_flax.Backbone
    classes: int
    width: int = 64

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        maps = self.backbone(images, train=train)
        x = None
        for features in reversed(maps):
            lateral = nn.Conv(self.width, (1, 1))(features)
            x = lateral if x is None else lateral + _resize(x, lateral.shape[1:3])
        x = nn.relu(nn.LayerNorm(epsilon=1e-5)(nn.Conv(self.width, (3, 3))(x)))
        return _resize(nn.Conv(self.classes, (1, 1))(x), images.shape[1:3])


def _resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "bilinear")


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (count, H, W, 3) with three shapes each, and the class of each pixel, int32 (count, H, W)."""
    height, width = SIZE
    images, labels = [], []
    for _ in range(count):
        image = Image.fromarray(rng.integers(60, 190, (height, width, 3), dtype=np.uint8))
        label = Image.new("L", (width, height))
        for kind in rng.integers(1, len(CLASSES), 3):
            radius = rng.integers(8, 20)
            x, y = rng.integers(radius, (width - radius, height - radius))
            corners = (x - radius, y - radius, x + radius, y + radius)
            roof = [(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)]
            for canvas, fill in ((image, tuple(map(int, rng.integers(0, 256, 3)))), (label, int(kind))):
                canvas = ImageDraw.Draw(canvas)
                {1: canvas.ellipse, 2: canvas.rectangle, 3: canvas.polygon}[kind](roof if kind == 3 else corners, fill)
        images.append(np.asarray(image))
        labels.append(np.asarray(label, np.int32))
    return np.stack(images), np.stack(labels)


def mean_iou(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Intersection over union, averaged over the classes."""
    shares = []
    for kind in range(len(CLASSES)):
        here, there = predicted == kind, labels == kind
        shares.append((here & there).sum() / (here | there).sum())
    return float(np.mean(shares))


def main() -> None:
    """Trains on generated images and evaluates on others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--init-from", metavar="MODEL_DIR", help="start the backbone from these weights")
    parser.add_argument(
        "--frozen-stages", type=int, default=-1, help="freeze the stem and this many levels; -1 freezes nothing"
    )
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")

    if options.init_from:
        model, pretrained = gcvit_flax.load_model(options.init_from, num_classes=0, pad_to_windows=True)
    else:
        small = dict(image_size=64, embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
        model = gcvit_flax.create_model("gcvit_xxtiny", num_classes=0, **small)
        model = gcvit_flax.create_model(model.config, pad_to_windows=True)
        pretrained = {"params": gcvit_flax.init_params(model, jax.random.key(1))}
    segmenter = Segmenter(gcvit_flax.Backbone(model, frozen_stages=options.frozen_stages), len(CLASSES))

    params = jax.jit(segmenter.init)(jax.random.key(0), jnp.zeros((1, *SIZE, 3)))["params"]
    params["backbone"]["model"] = pretrained["params"]
    trainable = jax.tree.map(lambda _: True, params) | {"backbone": segmenter.backbone.trainable(params["backbone"])}
    schedule = optax.warmup_cosine_decay_schedule(0, 2e-3, options.steps // 10, options.steps)
    optimizer = optax.masked(optax.adamw(schedule, weight_decay=0.05), trainable)

    @jax.jit
    def step(params, state, images, labels, key):
        def loss_of(params):
            rngs = {"dropout": key}
            logits = segmenter.apply({"params": params}, normalize(images, model.preprocessing), train=True, rngs=rngs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    rng, state = np.random.default_rng(0), optimizer.init(params)
    for number in range(1, options.steps + 1):
        key = jax.random.fold_in(jax.random.key(2), number)
        params, state, loss = step(params, state, *draw(rng, options.batch_size), key)
        if number % 50 == 0 or number == options.steps:
            print(f"step {number}: loss {loss:.3f}", flush=True)

    images, labels = draw(np.random.default_rng(1), 64)
    logits = jax.jit(segmenter.apply)({"params": params}, normalize(images, model.preprocessing))
    print(f"mean IoU on {len(images)} new images: {mean_iou(np.argmax(logits, -1), labels):.3f}")


if __name__ == "__main__":
    run_cli(main)
