"""JPEGs of the size of ImageNet's."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

_WIDTH, _HEIGHT = 500, 375
_BYTES = 110_000
_CLASSES = 10


def make_jpegs(folder: Path, count: int = 400) -> Path:
    """Fills `folder` with folder/CLASS/IMAGE.jpg, `count` images of 500 x 375 pixels and some 110 kB; returns it.

    Their spectrum falls with frequency as that of photographs does, and there are edges in them. A decoder's work
    depends on little else than the sizes.
    """
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"class{index % _CLASSES}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encode(_paint(rng)))
    return folder


def _paint(rng: np.random.Generator) -> Image.Image:
    frequency = np.hypot(np.fft.fftfreq(_HEIGHT)[:, None], np.fft.rfftfreq(_WIDTH)[None])
    spectrum = np.exp(2j * np.pi * rng.uniform(size=(3, *frequency.shape))) / np.maximum(frequency, 1 / _WIDTH)
    noise = np.fft.irfft2(spectrum, (_HEIGHT, _WIDTH))
    channels = noise[:1] + 0.3 * noise[1:2], noise[:1], noise[:1] + 0.3 * noise[2:]  # Mostly gray, as photographs are.
    pixels = 40 * np.concatenate(channels) / noise.std() + 120
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    for _ in range(12):
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-100, 300)
        patch = np.cos(angle) * (x - _WIDTH / 2) + np.sin(angle) * (y - _HEIGHT / 2) > offset
        pixels += patch * rng.normal(0, 15, (3, 1, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def _encode(image: Image.Image) -> bytes:
    """The JPEG of the highest quality that is no larger than intended."""
    for quality in range(98, 50, -2):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality, subsampling="4:2:0")
        if stream.tell() <= _BYTES * 1.03:
            break
    return stream.getvalue()
