import pytest

from gcvit_flax.data.spec import Parts, name_evaluated_part, parse_spec
from gcvit_flax.errors import UserError


@pytest.mark.parametrize(
    ("spec", "data", "parts"),
    [
        ("digits", "digits", Parts()),
        ("tfds:mnist", "tfds:mnist", Parts()),
        ("tfds:mnist[test]", "tfds:mnist", Parts("test")),
        ("tfds:mnist[train[:10%]]", "tfds:mnist", Parts("train[:10%]")),
        ("tfds:a/b:1.0.0[train[:9],train[9:]+test]", "tfds:a/b:1.0.0", Parts("train[:9]", "train[9:]+test")),
        ("hf:org/name[train, test[5%:]]", "hf:org/name", Parts("train", "test[5%:]")),
        ("folder:/a[b]/c", "folder:/a[b]/c", Parts()),
        ("folder:/a[b]/c[val]", "folder:/a[b]/c", Parts("val")),
    ],
)
def test_brackets_at_the_end_name_parts(spec, data, parts):
    assert parse_spec(spec) == (data, parts)
    assert parse_spec(f"{data}[{parts}]" if parts.train else data) == (data, parts)


@pytest.mark.parametrize("brackets", ["[]", "[,]", "[train,]", "[a,b,c]"])
def test_brackets_without_a_meaning(brackets):
    with pytest.raises(UserError, match=r"in its brackets, or more than two: expected \[TRAIN\] or \[TRAIN,VALIDATION"):
        parse_spec(f"tfds:mnist{brackets}")


def test_what_is_trained_on_is_not_validated_on_unless_it_is_named():
    usual = ("validation", "test")
    for train, validation, known, expected in (
        (None, None, ("train", "test"), "test"),
        (None, None, ("train", "test", "validation"), "validation"),
        ("train", "train[9:]", ("train", "test"), "train[9:]"),
        ("train + validation[:9]", None, ("train", "validation", "test"), "test"),
        ("test[:10%]", None, ("train", "test"), None),
        ("test", "test", ("test",), "test"),
    ):
        assert Parts(train, validation).choose_validation(known, usual) == expected


def test_one_part_is_the_one_to_evaluate_on():
    assert name_evaluated_part("tfds:mnist", None) == ("tfds:mnist", None)
    assert name_evaluated_part("tfds:mnist", "train[:5]") == ("tfds:mnist", "train[:5]")
    assert name_evaluated_part("tfds:mnist[train[:5]]", None) == ("tfds:mnist", "train[:5]")
    assert name_evaluated_part("tfds:mnist[train,test]", None) == ("tfds:mnist", "test")
    with pytest.raises(UserError, match="names the part to evaluate on, and so does --split test: leave one of them"):
        name_evaluated_part("tfds:mnist[test]", "test")
