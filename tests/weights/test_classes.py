import numpy as np
import pytest

from gcvit_flax.errors import UserError
from gcvit_flax.weights.classes import class_index, imagenet_classes, match_classes, wordnet_ids

NAMES = imagenet_classes()
IDS = wordnet_ids(NAMES)


def test_class_names_and_wordnet_ids_are_imagenets():
    assert len(set(NAMES)) == 1000
    assert [NAMES[index] for index in (0, 281, 285, 999)] == ["tench", "tabby", "Egyptian cat", "toilet tissue"]
    assert len(set(IDS)) == 1000 and sorted(IDS) == IDS
    assert [IDS[index] for index in (0, 281, 285, 999)] == ["n01440764", "n02123045", "n02124075", "n15075141"]
    assert wordnet_ids(IDS) == IDS, "a model trained on ImageNet's folders has these names"
    assert wordnet_ids(None) is None and wordnet_ids(NAMES[:10]) is None and wordnet_ids(NAMES[::-1]) is None


def test_classes_are_found_by_name():
    model = ["cat", "dog", "eel"]
    assert match_classes(model, model, 3) is None and match_classes(["0", "1"], None, 3) is None
    assert match_classes(["cat", "eel"], model, 3).tolist() == [0, 2]
    assert match_classes(["cat", "dog"], model, 3).tolist() == [0, 1], "the eel's logit must be left out"
    assert match_classes(["eel", "dog", "cat"], model, 3).tolist() == [2, 1, 0]


@pytest.mark.parametrize("model", [NAMES, IDS])
def test_classes_of_imagenet_are_found_by_wordnet_id_and_index(model):
    assert match_classes(["n15075141", "n02123045"], model, 1000).tolist() == [999, 281]
    assert match_classes(IDS, model, 1000) is None
    assert match_classes(IDS[::-1], model, 1000).tolist() == [*range(999, -1, -1)]
    numbers = sorted(map(str, range(1000)))  # As folders are: 0, 1, 10, 100, 101 ...
    np.testing.assert_array_equal(match_classes(numbers, model, 1000), [int(number) for number in numbers])


def test_classes_that_the_model_lacks_are_refused():
    for data, model, expected in (
        (["cat", "cow", "hen"], ["cat", "dog", "eel"], "class 'cow' and 1 more are not among the model's 3: .* 'cat'"),
        (["dog", "hen"], ["cat", "dog", "eel"], "class 'hen' is not among the model's 3: expected names like 'cat'; r"),
        (["a", "b", "c", "d"], ["cat", "dog", "eel"], "the data has 4 classes and the model 3"),
        ([*map(str, range(10))], NAMES, "'0' and 9 more are not .* a WordNet id as n01440764, or one of all the numb"),
        (["n01440764", "n00000001"], NAMES, "'n00000001' is not among the model's 1000"),
        (["n01440764", "n02123045"], NAMES[::-1], "'n01440764' and 1 more are not"),
    ):
        with pytest.raises(UserError, match=expected):
            match_classes(data, model, len(model))


def test_a_class_is_named_in_three_ways():
    assert [class_index(named, NAMES) for named in ("tabby", "n02123045", "281", "0", "999")] == [281, 281, 281, 0, 999]
    assert class_index("1", ["2", "1", "0"]) == 1, "a name comes before an index"
    for named, names, expected in (
        ("taby", NAMES, "the model has no class 'taby': give an index from 0 to 999 or a name such as 'tabby'"),
        ("1000", NAMES, "no class '1000'"),
        ("-1", ["cat", "dog"], "no class '-1': give an index from 0 to 1 or a name such as 'cat' or 'dog'"),
    ):
        with pytest.raises(UserError, match=expected):
            class_index(named, names)
