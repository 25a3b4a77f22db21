from gcvit_flax.weights.classes import imagenet_classes


def test_class_names_are_imagenets():
    names = imagenet_classes()
    assert len(set(names)) == 1000
    assert [names[index] for index in (0, 281, 285, 999)] == ["tench", "tabby", "Egyptian cat", "toilet tissue"]
