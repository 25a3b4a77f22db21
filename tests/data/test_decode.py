"""The decoder: color models, orientation, and files that are damaged, missing or removed."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcvit_flax.data.decode import UnreadableImage, decode
from gcvit_flax.data.random_crop import random_resized_crop


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("mode", "color", "kind", "expected"),
    [
        ("L", 77, "PNG", (77, 77, 77)),
        ("RGBA", (10, 20, 30, 128), "PNG", (10, 20, 30)),
        ("P", 0, "GIF", (0, 0, 0)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("I;16", 257 * 100 - 1, "PNG", (99, 99, 99)),
        ("CMYK", (0, 0, 0, 0), "TIFF", (255, 255, 255)),
    ],
)
def test_every_color_model_becomes_rgb(mode, color, kind, expected):
    image = decode(encode(Image.new(mode, (5, 4), color), kind))
    assert image.mode == "RGB" and image.size == (5, 4)
    assert image.getpixel((2, 2)) == expected


@pytest.mark.parametrize(
    ("mode", "kind", "transparency"), [("P", "PNG", bytes([0, 128])), ("P", "PNG", 0), ("LA", "PNG", None)]
)
@pytest.mark.filterwarnings("error")
def test_transparency_is_dropped_without_a_warning(mode, kind, transparency):
    image = Image.new("LA", (5, 4), (77, 9)) if mode == "LA" else Image.new("L", (5, 4), 77).convert("P")
    assert decode(encode(image, kind, transparency=transparency)).getpixel((2, 2)) == (77, 77, 77)


def test_images_beyond_what_pillow_reads_are_named(monkeypatch):
    data = encode(Image.new("1", (50, 40)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999)
    with pytest.raises(ValueError, match=r"^map.png: more than the 1,998 pixels that Pillow reads; shrink or"):
        decode(data, "map.png")


def test_exif_orientation_is_applied():
    photo = Image.new("RGB", (6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotated by 90 degrees: width and height are swapped.
    assert decode(encode(photo, "JPEG", exif=exif)).size == (4, 6)


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("cut", [0, 40, 300])
def test_broken_images_are_named(cut):
    data = encode(Image.effect_noise((40, 40), 50), "JPEG")[:cut]
    with pytest.raises(ValueError, match=r"holiday.jpg: not an image that Pillow can read"):
        decode(data, "holiday.jpg")


def test_missing_files_are_named(tmp_path):
    for path in (tmp_path / "nothing.png", tmp_path):
        with pytest.raises(UnreadableImage, match=f"^{path}: there is no such image file, check the path$"):
            decode(path)


@pytest.mark.parametrize("gone", ["gone.png", "file/gone.png"])
def test_a_file_removed_between_the_check_and_its_opening_is_missing(tmp_path, monkeypatch, gone):
    (tmp_path / "file").touch()
    path = tmp_path / gone
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    rng = np.random.default_rng(0)
    for read in (decode, lambda source: random_resized_crop(source, (8, 8), rng, (0.5, 1.0))):
        with pytest.raises(UnreadableImage, match=f"^{path}: there is no such image file, check the path$"):
            read(path)


def test_a_path_that_the_system_refuses_is_an_unreadable_image(tmp_path):
    """So that prediction, and training with --skip-corrupt, continue with the other images."""
    with pytest.raises(UnreadableImage, match=r"a\.png: not an image that Pillow can read \(.*too long"):
        decode(tmp_path / f"{'a' * 300}.png")


def test_arrays_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"expected a uint8 array .* got float64 \(4, 4, 3\)"):
        decode(np.zeros((4, 4, 3)))
