import pytest

from gcvit_flax.data.datasets import open_data


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("folder:/no/such/place", "/no/such/place is not a folder"),
        ("imagenet", "unknown data 'imagenet': expected digits, folder:PATH, tfds:NAME or hf:NAME_OR_PATH"),
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
    for spec, split in (("digits", "test"), ("digits[test]", None), ("digits[test,test]", None)):
        with pytest.raises(ValueError, match="digits has no split 'test': leave --split out, and brackets"):
            open_data(spec, split=split)


def test_the_validation_part_is_named_once():
    with pytest.raises(ValueError, match=r"names the validation part, and so does --split test: leave one of them out"):
        open_data("digits[train,val]", split="test")
