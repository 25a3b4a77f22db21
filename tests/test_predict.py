"""gcvit_flax.predict: what the network sees of each image, and the order of the results."""

import csv
import io
import json
import os
import threading
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image
from small import TINY

import gcvit_flax
from gcvit_flax import inference
from gcvit_flax.classify import apply_to_files
from gcvit_flax.config import Preprocessing
from gcvit_flax.data import crops
from gcvit_flax.data.decode import decode
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.predict import main, predict
from gcvit_flax.visualize.overlay import overlay
from gcvit_flax.weights.classes import imagenet_classes, wordnet_ids


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A model folder with parameters far from zero, so that predictions differ between images."""
    model = gcvit_flax.create_model(TINY)
    rng = np.random.default_rng(0)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype), params)
    folder = tmp_path_factory.mktemp("predict") / "model"
    gcvit_flax.save_model(folder, model, {"params": params}, class_names=["cat", "dog", "eel"])
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def draw(path: str, width: int, height: int, seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(path)
    return path


def run(capsys, *arguments) -> tuple[int, list[dict], str]:
    """The exit status, the JSON lines and stderr of a command."""
    status = main([*map(str, arguments), "--json"])
    output = capsys.readouterr()
    return status, [json.loads(line) for line in output.out.splitlines()], output.err


def test_bfloat16_changes_probabilities_a_little(model_dir, capsys):
    image = draw("cat.png", 40, 40)
    _, (exact,), _ = run(capsys, model_dir, image)
    _, (rounded,), _ = run(capsys, model_dir, image, "--dtype", "bfloat16")
    exact, rounded = ([entry["probability"] for entry in line["predictions"]] for line in (exact, rounded))
    assert exact != rounded and rounded == pytest.approx(exact, rel=0.05)


def test_results_match_the_model_in_order_and_broken_files_are_reported(model_dir, capsys):
    paths = [draw(f"{seed}.png", 32 + seed, 40, seed) for seed in range(5)]
    with open("poem.jpg", "w") as file:
        file.write("roses are red")
    draw("line.png", 300, 1)
    inputs = [paths[3], "poem.jpg", paths[0], paths[4], "line.png", paths[1], paths[2]]
    status, lines, errors = run(capsys, model_dir, *inputs, "--batch-size", "2", "--top-k", "9")
    assert status == 1 and "poem.jpg: not an image" in errors and "line.png: 300x1 px" in errors
    readable = [path for path in inputs if path in paths]
    assert [line["image"] for line in lines] == readable

    model, variables = gcvit_flax.load_model(model_dir)
    predictor, shown = gcvit_flax.Predictor(model, variables), gcvit_flax.preprocess([*readable, paths[0]], model)
    logits = np.concatenate([predictor(pair) for pair in np.split(shown, 3)])[:5]
    for line, expected in zip(lines, jax.nn.softmax(logits), strict=True):
        found = {entry["index"]: entry["probability"] for entry in line["predictions"]}
        np.testing.assert_allclose([found[index] for index in range(3)], expected, atol=1e-5)
        assert [entry["class"] for entry in line["predictions"]] == [["cat", "dog", "eel"][i] for i in found]
        assert list(found.values()) == sorted(found.values(), reverse=True)
    assert len({str(line["predictions"]) for line in lines}) == 5, "equal predictions would hide a wrong order"


def test_images_are_read_while_others_are_computed(monkeypatch):
    """The first batch waits here until the second is being read."""
    reading = threading.Event()

    def read(path, **_):
        if path == "2":
            reading.set()
        return np.zeros((32, 32, 3), np.uint8)

    def predictor(images):
        assert reading.wait(30), "no image of the next batch is read"
        return np.zeros((len(images), 3))

    monkeypatch.setattr("gcvit_flax.classify._read", read)
    results = apply_to_files(predictor, Preprocessing(), ["0", "1", "2", "3"], batch_size=2)
    assert [path for path, _ in results] == ["0", "1", "2", "3"]


def test_no_more_images_are_read_where_no_more_results_are_asked_for(monkeypatch):
    """Of the second batch, which is read ahead, two images are being read when the results are left."""
    read, left = [], threading.Event()

    def slow(path, **_):
        read.append(path)
        assert int(path) < 10 or left.wait(30)
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr("gcvit_flax.classify._read", slow)
    paths = [str(number) for number in range(30)]
    results = apply_to_files(lambda images: np.zeros((len(images), 3)), Preprocessing(), paths, batch_size=10)
    next(results)
    threading.Timer(0.5, left.set).start()
    results.close()
    assert len(read) <= 12


def test_one_extreme_image_does_not_end_the_others(model_dir, capsys, monkeypatch):
    """Strips are classified; an image, or a picture of one, for which there is no memory is reported."""
    os.mkdir("in")
    for name in ("1.png", "2.png", "3.png"):
        draw(f"in/{name}", 40, 40)
    Image.new("L", (2, 40_000), 77).save("in/strip.png")
    draw("in/large.png", 77, 40)
    draw("in/wide.png", 78, 40)

    def fail_for(width, function):
        def call(image, *rest):
            if image.width == width:
                raise MemoryError
            return function(image, *rest)

        return call

    monkeypatch.setattr("gcvit_flax.classify.evaluation_crop", fail_for(77, crops.evaluation_crop))
    monkeypatch.setattr("gcvit_flax.visualize.grad_cam.overlay", fail_for(78, overlay))
    status, lines, errors = run(capsys, model_dir, "in", "--heatmap", "heat")
    assert status == 1
    assert [line["image"] for line in lines] == [f"in/{name}.png" for name in ("1", "2", "3", "strip", "wide")]
    why = "does not fit into the memory of this machine; shrink or remove it"
    assert errors.splitlines() == [f"error: in/{name}.png: {why}" for name in ("large", "wide")]
    assert sorted(os.listdir("heat")) == ["1.png", "2.png", "3.png", "strip.png"]


def test_whole_images_of_any_size_compile_one_program_per_shape(model_dir, capsys, monkeypatch):
    """At a nominal 64 px three of the five shapes differ; batches are padded to one size."""
    model, variables = gcvit_flax.load_model(model_dir, pad_to_windows=True, image_size=64)
    made, Predictor = [], inference.Predictor

    def watched(*arguments):
        made.append(Predictor(*arguments))
        return made[-1]

    monkeypatch.setattr(inference, "Predictor", watched)
    monkeypatch.setattr("gcvit_flax.classify._WHOLE_IMAGES_AT_A_TIME", 4)
    sizes = [(90, 90), (120, 100), (40, 90), (95, 88), (80, 64), (300, 120), (99, 99), (130, 60), (77, 70)]
    paths = [draw(f"{index}.png", *size, index) for index, size in enumerate(sizes)]
    results = dict(predict(model, variables, "abc", paths, batch_size=2, whole=True))
    assert list(results) == paths
    assert {shape[0] for shape in made[0].programs} == {2} and len(made[0].programs) == 3
    for path in paths[:4]:  # Each by itself gives the same result as in its batch.
        image = decode(path)
        shown = crops.whole_image(image, model.preprocessing)
        pair = np.stack([normalize(crops.evaluation_crop(image, shown), shown)] * 2)
        probabilities = jax.nn.softmax(made[0](pair)[0])
        assert {entry["index"]: entry["probability"] for entry in results[path]} == pytest.approx(
            dict(enumerate(map(float, probabilities))), abs=1e-5
        )
    assert len(made[0].programs) == 3

    wide = draw("wide.png", 64, 32)
    seen = [run(capsys, model_dir, wide, *flag)[1][0]["predictions"] for flag in ([], ["--whole"])]
    assert seen[0] != seen[1]


def test_a_heat_map_is_drawn_for_one_image_and_checked_before_the_work(model_dir, capsys, monkeypatch):
    path, other = draw("a.png", 50, 34), draw("b.png", 50, 34)
    assert run(capsys, model_dir, path, "--heatmap", "seen.png")[0] == 0
    assert Image.open("seen.png").size == (50, 34)
    monkeypatch.setattr("gcvit_flax.predict.open_classifier", lambda *_, **__: pytest.fail("this comes too late"))
    for arguments, message in (
        ((path, other, "--heatmap", "x.png"), "x.png is a single picture, and the inputs are 2 images: name a folder"),
        ((path, "--heatmap", "seen.jpg"), "a picture's name must end in .png, got seen.jpg"),
        ((path, "--heatmap", "nowhere/x.png"), "nowhere/x.png cannot be written: name a picture in a folder"),
    ):
        with pytest.raises(gcvit_flax.UserError, match=message):
            main([model_dir, *arguments])
    for arguments, message in (
        (("--top-k", "0"), "--top-k must be at least 1, got 0"),
        (("--batch-size", "-3"), "--batch-size must be at least 1, got -3"),
        (("--heatmap-class", "cat"), "--heatmap-class and --heatmap-level need --heatmap"),
        (("--heatmap-level", "0"), "--heatmap-class and --heatmap-level need --heatmap"),
        (("--heatmap", "x.png", "--heatmap-level", "4"), "invalid choice: 4"),
        (("--json", "--csv"), "argument --csv: not allowed with argument --json"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([model_dir, path, *arguments])
        assert message in capsys.readouterr().err


def test_outputs_that_are_not_finite_are_reported(model_dir):
    model, variables = gcvit_flax.load_model(model_dir)
    variables["params"]["head"]["bias"] = np.full(3, np.nan, np.float32)
    with pytest.raises(gcvit_flax.UserError, match="outputs are not finite"):
        list(predict(model, variables, "abc", [draw("a.png", 32, 32)]))


def shown(model_dir, path: str, named: int, level: int) -> np.ndarray:
    """The picture of a class's Grad-CAM, from the library."""
    model, variables = gcvit_flax.load_model(model_dir)
    evidence = gcvit_flax.grad_cam(model, variables, gcvit_flax.preprocess(path, model), [named], level)[0]
    return overlay(Image.open(path), evidence, crops.crop_box(Image.open(path), model.preprocessing))


def test_heat_maps_of_many_images_show_any_class_and_level(model_dir, capsys):
    for name in ("red", "blue"):
        os.mkdir(name)
    paths = [draw("red/1.png", 50, 34, 0), draw("red/2.png", 40, 40, 1), draw("blue/1.png", 34, 60, 2)]
    with open("red/3.jpg", "w") as file:
        file.write("not a picture")
    status, lines, errors = run(capsys, model_dir, "red", "blue", "--heatmap", "best")
    assert status == 1 and errors.count("\n") == 1 and "red/3.jpg" in errors
    best = [line["predictions"][0]["index"] for line in lines]
    assert sorted(map(str, Path("best").rglob("*.png"))) == ["best/blue/1.png", "best/red/1.png", "best/red/2.png"]
    for path, index in zip(paths, best, strict=True):
        np.testing.assert_array_equal(Image.open(f"best/{path}"), shown(model_dir, path, index, 3))

    other = (best[0] + 1) % 3  # At level 0: the last level's map is a single place here, and all classes look alike.
    expected = shown(model_dir, paths[0], other, 0)
    assert (expected != shown(model_dir, paths[0], best[0], 0)).any()
    for named in (["cat", "dog", "eel"][other], str(other)):
        arguments = ("--heatmap", "x.png", "--heatmap-class", named, "--heatmap-level", "0")
        assert run(capsys, model_dir, paths[0], *arguments)[0] == 0
        np.testing.assert_array_equal(Image.open("x.png"), expected)
    assert run(capsys, model_dir, *paths[:2], "--heatmap", "fine", "--heatmap-level", "0")[0] == 0
    for path, index in zip(paths[:2], best[:2], strict=True):
        np.testing.assert_array_equal(Image.open(f"fine/{Path(path).name}"), shown(model_dir, path, index, 0))
    with pytest.raises(gcvit_flax.UserError, match=r"the model has no class 'cow': .* 0 to 2 or a name such as"):
        main([model_dir, paths[0], "--heatmap", "y.png", "--heatmap-class", "cow"])
    assert not os.path.exists("y.png")


def test_a_csv_table_has_a_line_for_each_class_of_each_image(model_dir, capsys, monkeypatch):
    paths = [draw('a, "b".png', 32, 40, 0), draw("c.png", 40, 40, 1)]
    assert main([model_dir, *paths, "--csv", "--top-k", "2"]) == 0
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    _, lines, _ = run(capsys, model_dir, *paths, "--top-k", "2")
    expected = [
        (line["image"], str(rank), entry["class"], "", str(entry["index"]), str(entry["probability"]))
        for line in lines
        for rank, entry in enumerate(line["predictions"], 1)
    ]
    assert [*rows[0]] == ["image", "rank", "class", "wordnet_id", "index", "probability"]
    assert [tuple(row.values()) for row in rows] == expected and len(rows) == 4

    with open("poem.jpg", "w") as file:
        file.write("roses are red")
    assert main([model_dir, *paths, "poem.jpg", "--csv", "table.csv", "--top-k", "2"]) == 1
    assert capsys.readouterr().out == "" and [*csv.DictReader(Path("table.csv").read_text().splitlines())] == rows
    assert main([model_dir, "--top-k", "2", "--csv", *paths]) == 0
    assert [*csv.DictReader(io.StringIO(capsys.readouterr().out))] == rows
    with pytest.raises(SystemExit, match="2"):
        main([model_dir, f"--csv={paths[1]}", *paths])
    assert "a table's name must end in .csv, got c.png" in capsys.readouterr().err
    with pytest.raises(gcvit_flax.UserError, match=r"nowhere/table\.csv cannot be written"):
        main([model_dir, *paths, "--csv", "nowhere/table.csv"])
    arguments = [model_dir, paths[0], "--heatmap", "heat.png", "--csv", "other.csv"]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is full"):
        patch.setattr("gcvit_flax.visualize.grad_cam.draw_heat_map", mock.Mock(side_effect=OSError("the disk is full")))
        main(arguments)
    assert not [*Path().glob("other.csv*")]


def test_classes_of_imagenet_have_their_wordnet_ids(tmp_path, capsys):
    model = gcvit_flax.create_model(TINY, num_classes=1000)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    gcvit_flax.save_model("imagenet", model, {"params": params}, class_names=imagenet_classes())
    path = draw("a.png", 32, 32)
    _, (line,), _ = run(capsys, "imagenet", path, "--top-k", "1000")
    ids = wordnet_ids(imagenet_classes())
    assert [entry["wordnet_id"] for entry in line["predictions"]] == [ids[e["index"]] for e in line["predictions"]]
    assert len(line["predictions"]) == 1000
    heat_map = ("--heatmap", "x.png", "--heatmap-class", "n02123045", "--heatmap-level", "0")
    main(["imagenet", path, "--csv", "--top-k", "1", *heat_map])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["wordnet_id"] == line["predictions"][0]["wordnet_id"]
    np.testing.assert_array_equal(Image.open("x.png"), shown("imagenet", path, 281, 0))
