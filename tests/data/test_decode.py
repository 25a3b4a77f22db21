import io

import numpy as np
import pytest
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data import random_crop
from gcvit_flax.data.crops import evaluation_crop, whole_image
from gcvit_flax.data.decode import decode
from gcvit_flax.data.preprocess import normalize, preprocess
from gcvit_flax.data.random_crop import random_resized_crop
from gcvit_flax.model.gcvit import create_model


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
def test_every_colour_model_becomes_rgb(mode, color, kind, expected):
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


@pytest.mark.parametrize("side", [224, 384])
def test_whole_images_have_five_shapes_and_are_squashed_by_a_fifth_at_most(side):
    shapes = set()
    for width in range(400, 2501, 10):
        preprocessing = whole_image(Image.new("1", (width, 1000)), Preprocessing((side, side), crop_fraction=0.875))
        height, across = preprocessing.image_size
        squash = width / 1000 * height / across
        assert min(squash, 1 / squash) >= 0.8
        assert height % 32 == across % 32 == 0 and 0.9 < height * across / side**2 < 1.1
        shapes.add((height, across))
    assert len(shapes) == 5 and (side, side) in shapes
    extremes = [whole_image(Image.new("1", size), Preprocessing((side, side))) for size in ((9000, 3), (3, 9000))]
    assert {preprocessing.image_size for preprocessing in extremes} <= shapes
    ramp = Image.linear_gradient("L").rotate(90).resize((700, 300)).convert("RGB")
    crop = evaluation_crop(ramp, whole_image(ramp, Preprocessing((side, side), crop_fraction=0.875)))
    assert {int(crop[0, 0, 0]) // 4, int(crop[0, -1, 0]) // 4} == {0, 63}, "both ends are there"


def test_exif_orientation_is_applied():
    photo = Image.new("RGB", (6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: width and height change places.
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
    with pytest.raises(ValueError, match=r"nothing.png: there is no such image file"):
        decode(tmp_path / "nothing.png")


def test_arrays_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"expected a uint8 array .* got float64 \(4, 4, 3\)"):
        decode(np.zeros((4, 4, 3)))


@pytest.mark.parametrize(
    ("size", "crop_mode", "corner"),
    [((100, 50), "center", 64), ((50, 100), "center", 0), ((100, 50), "squash", 0)],
)
def test_evaluation_crop_geometry(size, crop_mode, corner):
    """A horizontal ramp 0..255: how much of it is left at the crop's corner tells what was cut away."""
    ramp = np.tile(np.linspace(0, 255, size[0]), (size[1], 1)).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp] * 3, -1))
    crop = evaluation_crop(image, Preprocessing((20, 20), crop_mode=crop_mode))
    assert crop.shape == (20, 20, 3) and crop.dtype == np.uint8
    assert abs(int(crop[10, 0, 0]) - corner) < 8


def test_crop_fraction_takes_the_middle_of_a_larger_image():
    """At .875 a 224 px crop comes from a 256 px image, as the official evaluation does."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 512, 3), dtype=np.uint8))
    resized = image.resize((437, 256), Image.Resampling.BICUBIC)  # 512 * 256 / 300 = 436.9
    expected = np.asarray(resized)[16:240, 106:330]
    np.testing.assert_array_equal(evaluation_crop(image, Preprocessing((224, 224), crop_fraction=0.875)), expected)


def test_random_crop_stays_in_the_area_and_repeats_with_its_seed():
    """On a two-dimensional ramp the crop's value range is its share of each side."""
    ramp = np.tile(np.linspace(0, 255, 200), (200, 1))
    image = Image.fromarray(np.stack([ramp, ramp.T, ramp], -1).astype(np.uint8))
    shares = []
    for seed in range(200):
        crop = random_resized_crop(image, (24, 16), np.random.default_rng(seed), (0.2, 0.6))
        assert crop.shape == (24, 16, 3)
        spans = [np.ptp(crop[..., channel].astype(float)) / 255 for channel in (0, 1)]
        shares.append(spans[0] * spans[1])
    assert 0.12 < min(shares) < 0.3 and 0.5 < max(shares) < 0.65
    again = random_resized_crop(image, (24, 16), np.random.default_rng(199), (0.2, 0.6))
    np.testing.assert_array_equal(again, crop)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(orientation, monkeypatch):
    """601 x 403 pixels are 75.125 x 50.375 at an eighth: the rest, wherever it lies, must not shift the crop."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((601, 403), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo, "JPEG", quality=95, exif=exif)

    decoded, to_rgb = [], random_crop.to_rgb
    monkeypatch.setattr(random_crop, "to_rgb", lambda image: decoded.append(image.size) or to_rgb(image))
    size, area = (20, 16), (0.6, 1.0)
    for seed in range(8):
        crop = random_resized_crop(data, size, np.random.default_rng(seed), area)
        whole = random_resized_crop(decode(data), size, np.random.default_rng(seed), area)
        assert np.abs(crop.astype(int) - whole).max() <= 6
    assert {(151, 101), (76, 51)} & set(decoded)
    random_resized_crop(data, (300, 200), np.random.default_rng(0), area)
    assert decoded[-1] == (601, 403), "a crop of less than twice the size needs every pixel"


def test_a_crop_that_never_fits_falls_back_to_the_middle():
    strip = Image.fromarray(np.zeros((10, 400, 3), np.uint8))
    assert random_resized_crop(strip, (8, 8), np.random.default_rng(0), (0.9, 1.0)).shape == (8, 8, 3)


def test_preprocess_takes_paths_arrays_and_batches(tmp_path):
    model = create_model("gcvit_xxtiny", image_size=64)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(pixels[0]).save(path)
    expected = (pixels / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(preprocess(pixels, model), expected, atol=1e-5)
    for one in (path, str(path), path.read_bytes(), pixels[0], Image.open(path)):
        np.testing.assert_allclose(preprocess(one, model), expected[:1], atol=1e-5)
    assert preprocess([path, pixels[1]], model).shape == (2, 64, 64, 3)
    assert normalize(pixels, model.preprocessing).dtype == np.float32
