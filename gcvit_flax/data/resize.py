"""Antialiased resizing of a part of an image."""

import numpy as np
from PIL import Image

from gcvit_flax.config import Size

try:
    import cykooz_resizer
except ModuleNotFoundError:  # It is not built for Linux on ARM.
    cykooz_resizer = None


def resize_crop(pixels: np.ndarray, box: tuple[float, float, float, float], size: Size) -> np.ndarray:
    """The part of uint8 (h, w, 3) in `box` (left, top, right, bottom), resized bicubically to (height, width) `size`.

    Pillow's result, uint8 (H, W, 3), within a gray level nearly everywhere, in a third of Pillow's time.
    """
    height, width = size
    if cykooz_resizer is None:
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box=box)
        return np.asarray(image)
    left, top, right, bottom = box
    options = cykooz_resizer.ResizeOptions(
        resize_alg=cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.catmull_rom),
        crop_box=cykooz_resizer.CropBox(left, top, right - left, bottom - top),
    )
    rgb = cykooz_resizer.PixelType.U8x3
    source = cykooz_resizer.ImageData(pixels.shape[1], pixels.shape[0], rgb, pixels.tobytes())
    resized = cykooz_resizer.ImageData(width, height, rgb)
    cykooz_resizer.Resizer().resize(source, resized, options)
    return np.frombuffer(resized.get_buffer(), np.uint8).reshape(height, width, 3)
