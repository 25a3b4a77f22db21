"""Image files of every kind, damaged and not: pixels or a sentence, in bounded memory and time."""

import os

import pytest
from image_fuzz import fuzz

SECONDS = float(os.environ.get("FUZZ_SECONDS", "900"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))


@pytest.mark.parametrize("seconds", [0, pytest.param(SECONDS, marks=pytest.mark.soak)], ids=["a few", "many"])
def test_image_files_give_pixels_or_a_sentence(seconds, tmp_path):
    result = fuzz(seconds, SEED, tmp_path)
    print("\n", {name: value for name, value in result.items() if name != "found"})
    assert not result["found"], "\n".join(result["found"])
    assert result["files"] > 100 and result["read"] and result["refused"], "this test tries nothing"
