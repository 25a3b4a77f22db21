"""Images of any number of channels: arrays, .npy, TIFF, alpha; and what is no such image."""

import contextlib
import dataclasses
import io
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.bands import Bands, as_rgb, read_picture
from gcvit_flax.data.batches import evaluation_batches, training_batches
from gcvit_flax.data.channel_statistics import measure_channels
from gcvit_flax.data.crops import evaluation_crop
from gcvit_flax.data.decode import UnreadableImage
from gcvit_flax.data.preprocess import preprocess
from gcvit_flax.data.sources import ListSource
from gcvit_flax.errors import UserError
from gcvit_flax.variants import for_channels

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 5), dtype=np.uint8)


def pixels_of(source, channels, name="") -> np.ndarray:
    return np.asarray(read_picture(source, name, channels))


@dataclasses.dataclass
class Model:
    preprocessing: Preprocessing


@pytest.mark.parametrize("kind", ["npy", "samples", "planes", "pages", "rows", "bytes", "array"])
@pytest.mark.parametrize(
    ("dtype", "scale"), [("uint8", 1), ("uint16", 257), ("uint32", 2**32 // 255), ("float32", 1 / 255), ("int16", 1)]
)
def test_five_channels(tmp_path, kind, dtype, scale):
    data = (PIXELS.astype(np.float64) * scale).astype(dtype)
    path = tmp_path / f"x.{'npy' if kind == 'npy' else 'tif'}"
    if kind == "npy":
        np.save(path, data)
    elif kind == "pages":
        tifffile.imwrite(path, np.moveaxis(data, -1, 0), photometric="minisblack")
    elif kind == "rows":
        tifffile.imwrite(path, data, photometric="minisblack")
    elif kind in ("samples", "planes", "bytes"):
        planes = kind == "planes"
        written = np.moveaxis(data, -1, 0) if planes else data
        tifffile.imwrite(path, written, photometric="minisblack", planarconfig="separate" if planes else "contig")
    source = data if kind == "array" else path.read_bytes() if kind == "bytes" else path
    read = pixels_of(source, 5)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, PIXELS * (255.0 if dtype == "int16" else 1.0), rtol=1e-6)


def test_gray_of_any_image(tmp_path):
    color = Image.fromarray(PIXELS[..., :3])
    color.save(tmp_path / "color.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "color.png", 1)[..., 0], np.asarray(color.convert("L")))
    deep = PIXELS[..., 0].astype(np.uint16) * 256 + 7
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        np.testing.assert_allclose(pixels_of(tmp_path / name, 1)[..., 0], deep / 257, rtol=1e-6)
    real = deep.astype(np.float32)
    Image.fromarray(real).save(tmp_path / "real.tif")
    np.testing.assert_allclose(pixels_of(tmp_path / "real.tif", 1)[..., 0], real * 255, rtol=1e-6)


def test_alpha_is_a_channel(tmp_path):
    Image.fromarray(PIXELS[..., :4]).save(tmp_path / "x.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "x.png", 4), PIXELS[..., :4])
    assert pixels_of(tmp_path / "x.png", 3).dtype == np.uint8


def test_rgb_of_npy_is_as_of_any_file(tmp_path):
    np.save(tmp_path / "x.npy", PIXELS[..., :3])
    for source in (tmp_path / "x.npy", (tmp_path / "x.npy").read_bytes()):
        np.testing.assert_array_equal(pixels_of(source, 3), PIXELS[..., :3])
    np.save(tmp_path / "x.npy", PIXELS)
    np.testing.assert_array_equal(pixels_of((tmp_path / "x.npy").read_bytes(), 5), PIXELS)


def test_what_has_other_channels_or_is_damaged(tmp_path):
    np.save(tmp_path / "x.npy", PIXELS)
    with pytest.raises(UserError, match=r"x\.npy has 5 channels, expected 4"):
        read_picture(tmp_path / "x.npy", channels=4)
    with pytest.raises(UserError, match=r"expected a uint8 array .*got uint8 \(40, 50, 5\)"):
        read_picture(tmp_path / "x.npy")
    for name in ("x.npy", "x.tif"):
        (tmp_path / name).write_bytes(b"II*\0 no image")
        with pytest.raises(UnreadableImage, match=r"not an? (TIFF|\.npy) file that"):
            read_picture(tmp_path / name, channels=5)
        with pytest.raises(UnreadableImage, match=r"absent|no such"):
            read_picture(tmp_path / f"absent_{name}", channels=5)
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UnreadableImage, match="allow_pickle"):
        read_picture(tmp_path / "objects.npy", channels=5)
    with pytest.raises(UnreadableImage, match="NaN or infinity"):
        read_picture(np.full((4, 4, 5), np.nan), channels=5)
    with pytest.raises(UserError, match=r"expected numbers \(H, W, 5\)"):
        read_picture(np.zeros((1, 4, 4, 5)), channels=5)


def test_each_channel_is_cropped_as_pillow_crops_it():
    preprocessing = for_channels(Preprocessing((16, 24), crop_fraction=0.8), 5)
    cropped = evaluation_crop(read_picture(PIXELS, channels=5), preprocessing)
    assert cropped.shape == (16, 24, 5)
    for channel in range(5):
        gray = Image.fromarray(PIXELS[..., channel].astype(np.float32))
        np.testing.assert_array_equal(cropped[..., channel], evaluation_crop(gray, preprocessing))


def test_a_preprocessed_image_is_normalized_channel_by_channel():
    preprocessing = Preprocessing((40, 50), mean=(0.1, 0.2, 0.3, 0.4, 0.5), std=(1, 2, 3, 4, 5))
    images = preprocess([PIXELS], Model(preprocessing))
    np.testing.assert_allclose(images[0], (PIXELS / 255 - preprocessing.mean) / preprocessing.std, atol=1e-6)
    with pytest.raises(UserError, match="has 5 channels, expected 4"):
        preprocess([PIXELS], Model(for_channels(preprocessing, 4)))


@pytest.mark.parametrize("squash", [False, True])
def test_batches_have_the_channels(squash):
    source = ListSource([PIXELS] * 4, np.arange(4), [f"image {i}" for i in range(4)])
    preprocessing = for_channels(Preprocessing((16, 16)), 5)
    options = {"seed": 0, "start_step": 0, "crop_area": (0.5, 1.0), "squash": squash}
    batch = next(training_batches(source, preprocessing, batch_size=2, **options))
    assert batch["image"].shape == (2, 16, 16, 5) and batch["image"].dtype == np.float32
    padded = [*evaluation_batches(source, preprocessing, batch_size=3)][-1]
    assert padded["image"].shape == (3, 16, 16, 5) and padded["mask"].tolist() == [True, False, False]


def test_channels_are_measured():
    source = ListSource([PIXELS, PIXELS[::-1], b"no image"], np.arange(3), ["a", "b", "c"])
    constant = PIXELS.copy()
    constant[..., 4] = 51
    measured = measure_channels(source, for_channels(Preprocessing((40, 50)), 5))
    np.testing.assert_allclose(measured.mean, PIXELS.mean((0, 1)) / 255, rtol=1e-6)
    np.testing.assert_allclose(measured.std, PIXELS.std((0, 1)) / 255, rtol=1e-6)
    still = measure_channels(ListSource([constant], np.zeros(1), ["a"]), measured)
    assert still.mean[4] == pytest.approx(0.2) and still.std[4] == 1
    with pytest.raises(UserError, match="no training image can be read"):
        measure_channels(ListSource([b"no image"], np.zeros(1), ["a"]), measured)


def test_bands_resize_as_pillow():
    bands = Bands([Image.fromarray(PIXELS[..., i].astype(np.float32)) for i in range(2)])
    resized = np.asarray(bands.resize((20, 10), Image.Resampling.BICUBIC, (1, 2, 41, 32)))
    expected = Image.fromarray(PIXELS[..., 1].astype(np.float32)).resize((20, 10), 3, (1, 2, 41, 32))
    assert resized.shape == (10, 20, 2)
    np.testing.assert_array_equal(resized[..., 1], expected)


def test_other_channels_are_shown_by_their_first():
    """Each channel over its range; one that is constant is black."""
    ramp = np.linspace(-3, 5, 6, dtype=np.float32).reshape(2, 3)
    stack = np.stack([ramp, np.full_like(ramp, 7), ramp**2, ramp], -1)
    shown = np.asarray(as_rgb(read_picture(stack, channels=4)))
    assert shown.shape == (2, 3, 3) and shown.dtype == np.uint8
    assert shown[..., 0].tolist() == [[0, 51, 102], [153, 204, 255]] and not shown[..., 1].any()
    assert shown[..., 2].min() == 0 and shown[1, 2, 2] == 255
    gray = np.asarray(as_rgb(read_picture(stack[..., :2], channels=2)))
    assert (gray == shown[..., :1]).all()


def test_a_damaged_tiff_does_not_take_the_time_and_memory_that_it_claims():
    """Without the check, tifffile fills up what is missing: for minutes, and gigabytes in other files."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, PIXELS, photometric="minisblack", planarconfig="contig", rowsperstrip=1)
    content = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        height = file.pages[0].tags["ImageLength"].valueoffset
    content[height : height + 4] = (2_000_000).to_bytes(4, "little")
    with pytest.raises(UnreadableImage, match=r"x: not a TIFF file that tifffile can read \(40 of 2000000 strips"):
        read_picture(bytes(content), "x", channels=5)
    content[height : height + 4] = (2**31).to_bytes(4, "little")
    with pytest.raises(UnreadableImage, match=r"x: more than the 178,956,970 pixels"):
        read_picture(bytes(content), "x", channels=5)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("is_cut", [False, True])
def test_pages_that_lead_back_to_an_earlier_one(is_cut, bigtiff, tmp_path):
    """tifffile sees such a circle among the first hundred pages, and would collect those of a later one for good."""
    size, count, tag = (8, "<Q", 20) if bigtiff else (4, "<H", 12)
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, bigtiff=bigtiff) as writer:
        for _ in range(160):
            writer.write(PIXELS[:4, :4, 0], photometric="minisblack", metadata=None)
    whole = stream.getvalue()
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        offsets = [page.offset for page in file.pages]

    def circle(last: int) -> bytes:
        (tags,) = struct.unpack_from(count, whole, offsets[last])
        end = offsets[last] + struct.calcsize(count) + tag * tags
        assert whole[end : end + size] == offsets[last + 1].to_bytes(size, "little")
        if is_cut:  # Then tifffile takes the last bytes that are there for the next page's place.
            end -= 5
        return whole[:end] + offsets[last - 5].to_bytes(size, "little") + (b"" if is_cut else whole[end + size :])

    (tmp_path / "x.tif").write_bytes(circle(150))
    for source in (circle(150), tmp_path / "x.tif"):
        with (
            little_memory(),
            pytest.raises(UnreadableImage, match=r"\(after 151 pages comes an earlier one again\)"),
        ):
            read_picture(source, "x", 5)
    with pytest.raises(UnreadableImage, match="channels, expected 5"):  # They are read.
        read_picture(circle(60), "x", 5)


@pytest.mark.parametrize("at", ["tags", "next page"])
def test_numbers_at_the_end_of_a_page_need_not_be_sensible(at, tmp_path):
    """Of the only page of a BigTIFF file: how many tags it has, and where the next begins."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, PIXELS, photometric="minisblack", planarconfig="contig", bigtiff=True, metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offset, tags = file.pages[0].offset, len(file.pages[0].tags)
    place = offset if at == "tags" else offset + 8 + 20 * tags
    content[place : place + 8] = (2**63 if at == "next page" else 2**40).to_bytes(8, "little")
    path.write_bytes(content)
    for source in (bytes(content), path):
        if at == "tags":
            with pytest.raises(UnreadableImage, match="suspicious number of tags"):
                read_picture(source, "x", 5)
        else:
            assert (pixels_of(source, 5) == PIXELS).all()


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """No more than 300 MB beyond what this process has."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + 300 * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
