import numpy as np
import pytest
from PIL import Image

from gcvit_flax.visualize.confusion import draw_confusion


@pytest.mark.parametrize("classes", [2, 50])
def test_the_picture_has_room_for_every_class(classes, tmp_path):
    names = [f"flower number {index}" for index in range(classes)]
    draw_confusion(np.eye(classes, dtype=int) * 7, names, "top-1", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    side = max(classes * 22, 400)
    assert side + 100 < pixels.shape[0] < side + 400  # The picture grew by the names below.
    blue = (pixels[..., 2] > pixels[..., 0] + 60) & (pixels[..., 0] < 40)
    assert blue[:, :-200].any(1).sum() > 0.9 * side, "the diagonal"
