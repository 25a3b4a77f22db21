import pytest

from gcvit_flax.data.datasets import open_data


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("folder:/no/such/place", "/no/such/place is not a folder"),
        ("imagenet", "unknown data 'imagenet': expected digits, folder:PATH or tfds:NAME"),
        ("folder:", "unknown data"),
    ],
)
def test_bad_specs(spec, expected):
    with pytest.raises(ValueError, match=expected):
        open_data(spec)


def test_a_bad_fraction():
    with pytest.raises(ValueError, match="val-fraction must be above 0"):
        open_data("digits", 1.0)


def test_digits_have_no_splits():
    with pytest.raises(ValueError, match="digits has no split 'test': leave --split out"):
        open_data("digits", split="test")
