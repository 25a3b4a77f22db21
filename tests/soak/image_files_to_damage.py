"""Small images of all modes, formats and options that hypothesis chooses, as files, and damage to them."""

import dataclasses
import io
import random
import struct
import zlib

import numpy as np
import tifffile
from hypothesis import assume
from hypothesis import strategies as st
from PIL import Image, features

MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "F",
)
DTYPES = ("u1", "u2", ">u2", "u4", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?", "c8", "U3", "O")
SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "BMP": ".bmp",
    "PPM": ".ppm",
    "TGA": ".tga",
    "ICO": ".ico",
}
OPTIONAL = {"WEBP": "webp"}


@dataclasses.dataclass
class Case:
    """A file's content, or with None a Pillow image or array; and how it is to be read."""

    image: Image.Image | np.ndarray
    content: bytes | None
    suffix: str
    channels: int
    by_path: bool

    def __repr__(self) -> str:
        content = None if self.content is None else self.content[:2000]
        return f"Case({self.image!r}, {content!r}, {self.suffix!r}, {self.channels}, {self.by_path})"[:2500]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Files of every format, and images that are in memory already."""
    channels, by_path = draw(st.sampled_from([3, 3, 3, 1, 1, 2, 4])), draw(st.booleans())
    kind = draw(st.sampled_from([*SUFFIXES, "npy", "tifffile", "memory"]))
    if kind == "memory":
        image = draw(pillow_images() | arrays())
        return Case(image, None, "", channels, by_path)
    if kind in ("npy", "tifffile"):
        image, stream = draw(arrays()), io.BytesIO()
        channels = draw(st.sampled_from([*[image.shape[2] or 1 if image.ndim > 2 else 1] * 3, 3, 5]))
        if kind == "npy":
            np.save(stream, image, allow_pickle=True)
        else:
            _write_tiff(stream, image, draw)
        content, suffix = stream.getvalue(), ".npy" if kind == "npy" else ".tif"
    else:
        assume(features.check(OPTIONAL[kind]) if kind in OPTIONAL else True)
        image = draw(pillow_images())
        content, suffix = _encode(image, kind, draw), SUFFIXES[kind]
    return Case(image, content, suffix, channels, by_path)


@st.composite
def sizes(draw: st.DrawFn, longest: int) -> tuple[int, int]:
    """Width and height: small ones, and sometimes strips."""
    short, long = draw(st.integers(1, 40)), draw(st.integers(1, 40) | st.sampled_from([700, longest]))
    width, height = draw(st.permutations([short if long <= 40 else min(short, 3), long]))
    return width, height


@st.composite
def pillow_images(draw: st.DrawFn) -> Image.Image:
    """An image of any mode, of noise, or of a single value."""
    mode, (width, height) = draw(st.sampled_from(MODES)), draw(sizes(30_000))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    if mode in ("I", "I;16"):
        low, high = draw(st.sampled_from([(0, 65536), (-9, 300), (0, 2**31 - 1)])) if mode == "I" else (0, 65536)
        return Image.fromarray(rng.integers(low, high, (height, width)).astype({"I": "i4", "I;16": "u2"}[mode]))
    if mode == "F":
        scale = draw(st.sampled_from([1, 255, -1, np.nan, np.inf, 3e38]))
        return Image.fromarray((rng.random((height, width)) * scale).astype("f4"))
    if draw(st.booleans()):
        return Image.new(mode, (width, height))
    noise = Image.frombytes("RGB", (width, height), rng.bytes(3 * width * height))
    if mode in ("La", "RGBa"):
        return noise.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    if mode == "LAB":
        return Image.frombytes(mode, (width, height), rng.bytes(3 * width * height))
    return noise.convert("P").convert("PA") if mode == "PA" else noise.convert(mode)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """An array of any type, with two or three axes, or of a wrong number of them."""
    width, height = draw(sizes(700))  # tifffile takes its time for thousands of pages.
    depth = draw(st.sampled_from([(), (1,), (2,), (3,), (4,), (5,), (0,), (2, 3)]))
    dtype = draw(st.sampled_from(DTYPES))
    numbers = np.random.default_rng(0).random((height, width, *depth)) * draw(st.sampled_from([1, 200, 1e30]))
    with np.errstate(all="ignore"):
        array = numbers.astype(dtype)
    return np.asfortranarray(array) if draw(st.booleans()) else array


def _write_tiff(stream: io.BytesIO, array: np.ndarray, draw: st.DrawFn) -> None:
    options = {
        "photometric": draw(st.sampled_from(["minisblack", "miniswhite", "rgb", "palette", "ycbcr"])),
        "planarconfig": draw(st.sampled_from(["contig", "separate", None])),
        "compression": draw(st.sampled_from([None, "zlib"])),
        "tile": draw(st.sampled_from([None, (16, 16)])),
        "bigtiff": draw(st.booleans()),
        "byteorder": draw(st.sampled_from("<>")),
    }
    try:
        tifffile.imwrite(stream, array, **options)
    except Exception:  # Not every type of number has every form.
        assume(False)


def _encode(image: Image.Image, kind: str, draw: st.DrawFn) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(0, 9))
    options = {
        "exif": draw(st.sampled_from([exif, b"", b"Exif\0\0nothing"])),
        "icc_profile": draw(st.sampled_from([None, b"", bytes(3000)])),
        "quality": draw(st.sampled_from([1, 75, 100])),
        "lossless": draw(st.booleans()),
        "progressive": draw(st.booleans()),
        "interlace": draw(st.integers(0, 1)),
        "compression": draw(st.sampled_from([None, "tiff_lzw", "packbits", "tiff_adobe_deflate", "group4", "jpeg"])),
        "save_all": draw(st.booleans()),
        "append_images": [image.copy()],
    }
    if image.mode == "P" and draw(st.booleans()):
        options["transparency"] = draw(st.sampled_from([0, 200, bytes(range(256))]))
    if kind == "TIFF":
        del options["exif"], options["quality"]
    stream = io.BytesIO()
    try:
        image.save(stream, kind, **options)
    except Exception:  # Not every format has every mode.
        assume(False)
    return stream.getvalue()


def damage(content: bytes, rng: random.Random) -> bytes:
    """A file cut off, or with changed bytes, mostly in its beginning; checksums of PNG chunks may be right."""
    if not content or rng.random() < 0.2:
        return content[: rng.randrange(len(content) or 1)]
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(min(len(content), rng.choice([60, 400, 2**20])))
        found[place] = rng.choice([0, 1, 127, 128, 255, found[place] ^ 1 << rng.randrange(8), rng.randrange(256)])
    return _with_checksums(bytes(found)) if rng.random() < 0.5 else bytes(found)


def _with_checksums(content: bytes) -> bytes:
    """A PNG file whose chunks have the checksums that they should have; other files as they are."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    parts, place = [content[:8]], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        body = content[place + 4 : place + 8 + length]
        parts += [content[place : place + 4], body, struct.pack(">I", zlib.crc32(body))]
        place += 12 + length
    return b"".join([*parts, content[place:]])
