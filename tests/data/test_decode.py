"""The decoder: color models, orientation, and files that are damaged, missing or removed."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from gcvit_flax.data.bands import read_picture
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


GRAY = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
COLOR = np.stack([GRAY, GRAY[:, ::-1], GRAY // 2], -1)


def tiff(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def color_space_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.applyTransform(image, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))


@pytest.mark.parametrize(
    ("source", "expected", "tolerance"),
    [
        (tiff(GRAY / np.float32(255)), GRAY, 0),
        (Image.fromarray(GRAY / np.float32(255)), GRAY, 0),
        (tiff(GRAY.astype(np.uint16) * 257), GRAY, 0),
        (tiff(GRAY.astype(">u2") * 257, byteorder=">"), GRAY, 0),
        (tiff(255 - GRAY, photometric="miniswhite"), GRAY, 0),
        (tiff(65535 - GRAY.astype(np.uint16) * 257, photometric="miniswhite"), GRAY, 0),
        (tiff(1 - GRAY / np.float32(255), photometric="miniswhite"), GRAY, 0),
        (b"P5 256 3 65535\n" + (GRAY.astype(">u2") * 257).tobytes(), GRAY, 0),
        (tiff(COLOR.astype(np.uint16) * 257, photometric="rgb"), COLOR, 0),
        (tiff(np.moveaxis(COLOR, -1, 0), photometric="rgb", planarconfig="separate"), COLOR, 0),
        (encode(Image.fromarray(COLOR).convert("CMYK"), "JPEG", quality=100, subsampling=0), COLOR, 3),
        (encode(Image.fromarray(COLOR).convert("YCbCr"), "TIFF"), COLOR, 3),
        (color_space_lab(Image.fromarray(COLOR)), COLOR, 35),
        (encode(Image.fromarray(COLOR), "TIFF", icc_profile=bytes(3_000_000)), COLOR, 0),
        (encode(Image.fromarray(COLOR), "PNG", save_all=True, append_images=[Image.new("RGB", (256, 3))]), COLOR, 0),
    ],
    ids=[
        *("real numbers", "real numbers of Pillow", "16 bits", "16 bits, big endian", "0 is white"),
        *("0 is white in 16 bits", "0 is white, real numbers", "PGM of 16 bits", "RGB of 16 bits", "planes"),
        *("CMYK", "YCbCr", "Lab", "large profile", "animated PNG"),
    ],
)
def test_pixels_are_those_of_the_same_picture_in_8_bits(source, expected, tolerance):
    expected = np.broadcast_to(expected[..., None], (3, 256, 3)) if expected.ndim == 2 else expected
    assert np.abs(np.asarray(decode(source)).astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (tiff(GRAY.astype(np.float32)), "real numbers from 0 to 255, expected 0 to 1; scale them or remove it"),
        (tiff(np.full((3, 4), np.nan, np.float32)), "real numbers from nan to nan, expected 0 to 1; scale them"),
        (tiff(GRAY.astype(np.uint32)), "integers of 32 bits, expected unsigned integers of 8 or 16 bits"),
        (tiff(GRAY.astype(np.int16)), "signed integers of 16 bits, expected unsigned integers of 8 or 16 bits"),
        (tiff((GRAY // 2).astype(np.int8)), "signed integers of 8 bits, expected unsigned integers of 8 or 16 bits"),
        (
            tiff(np.moveaxis(COLOR, -1, 0).astype(np.uint16), photometric="rgb", planarconfig="separate"),
            "samples of 16 bits in planes, expected unsigned integers of 8 or 16 bits, pixel by pixel",
        ),
        (Image.fromarray(GRAY.astype(np.int32) - 1), "integers from -1 to 254, expected 0 to 65535; scale them"),
        (Image.fromarray(GRAY.astype(np.int32) + 65400), "integers from 65400 to 65655, expected 0 to 65535"),
    ],
    ids=["real", "NaN", "32 bits", "signed", "signed bytes", "planes", "negative", "large"],
)
def test_numbers_of_no_known_scale_are_refused(source, message):
    with pytest.raises(UnreadableImage, match=f"^x: {message}"):
        decode(source, "x")


@pytest.mark.filterwarnings("error")
def test_one_channel_is_the_gray_that_one_sees():
    palette = Image.fromarray(GRAY).quantize(256)
    for source in (
        tiff(65535 - GRAY.astype(np.uint16) * 257, photometric="miniswhite"),
        encode(palette, "PNG", transparency=bytes(range(256))),
        Image.merge("LA", [Image.fromarray(GRAY)] * 2),
    ):
        np.testing.assert_allclose(np.asarray(read_picture(source, channels=1))[..., 0], GRAY, atol=1e-3)
    lab = np.asarray(read_picture(color_space_lab(Image.fromarray(GRAY).convert("RGB")), channels=1))[..., 0]
    np.testing.assert_allclose(lab, GRAY, atol=4)
    for source in (tiff(GRAY.astype(np.int16)), tiff(GRAY.astype(np.uint32))):
        with pytest.raises(UnreadableImage, match="expected unsigned integers of 8 or 16 bits"):
            read_picture(source, channels=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format_is_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners = Image.fromarray(np.kron([[0, 80, 160], [40, 120, 240]], np.ones((16, 16))).astype(np.uint8))
    stored = np.asarray(corners).astype(int)
    turned = {
        **{1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1]},
        **{5: stored.T, 6: np.rot90(stored, -1), 7: stored[::-1, ::-1].T, 8: np.rot90(stored)},
    }[orientation]
    shown = np.asarray(decode(encode(corners, kind, exif=exif)))[..., 0]
    assert shown.shape == turned.shape and np.abs(shown - turned).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_data_harms_no_picture(kind):
    data = encode(Image.new("RGB", (20, 20), "red"), kind, exif=b"Exif\0\0nothing")
    crop = random_resized_crop(data, (8, 8), np.random.default_rng(0), (0.5, 1.0))
    for pixels in (np.asarray(decode(data)), crop):
        assert np.abs(pixels.astype(int) - (255, 0, 0)).max() < 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "does not fit into the memory of this machine; shrink or remove it"),
        (struct.error("unpack"), r"not an image that Pillow can read \(unpack\); replace or remove it"),
        (SyntaxError("broken"), r"not an image that Pillow can read \(broken\); replace or remove it"),
        (KeyError(), r"not an image that Pillow can read \(KeyError\); replace or remove it"),
    ],
)
def test_every_error_of_reading_is_the_images_own(monkeypatch, error, message):
    def fail(*_):
        raise error

    data, image = encode(Image.new("L", (9, 9)), "PNG"), Image.new("L", (9, 9))
    rng = np.random.default_rng(0)
    monkeypatch.setattr(Image.Image, "convert", fail)
    for source in (data, image):
        for read in (decode, lambda x, name: random_resized_crop(x, (8, 8), rng, (0.5, 1.0), name)):
            with pytest.raises(UnreadableImage, match=f"^x: {message}$"):
                read(source, "x")


def test_pillow_images_that_are_damaged_or_have_no_rgb_are_named():
    damaged = Image.open(io.BytesIO(encode(Image.effect_noise((40, 40), 50), "JPEG")[:900]))
    for image in (damaged, Image.new("LA", (4, 4)).convert("La")):
        with pytest.raises(UnreadableImage, match=r"^x: not an image that Pillow can read"):
            decode(image, "x")


def test_npy_files_of_another_kind_are_named(tmp_path):
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.savez(file, a=GRAY)
    with pytest.raises(UnreadableImage, match=r"x\.npy: an archive of arrays, expected a single one; save each"):
        decode(path)
    unbalanced = b"{'descr': '|u1', 'shape': ((((".ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00" + unbalanced)
    with pytest.raises(UnreadableImage, match=r"x\.npy: not an \.npy file that NumPy can read"):
        decode(path)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**22, 3)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UnreadableImage, match=r"x\.npy: not an \.npy file that NumPy can read"):
        decode(path)
