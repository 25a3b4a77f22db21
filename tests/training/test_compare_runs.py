import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcvit_flax.errors import UserError
from gcvit_flax.training import compare_runs


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Two runs of one setting, of which one was stopped early, and one of another with averaged parameters."""
    monkeypatch.chdir(tmp_path)
    for name, prefix, top1 in (
        ("lion-0", "val", [0.25, 0.5]),
        ("lion-1", "val", [0.5, 0.75, 1.0]),
        ("sgd", "ema_val", [0.125, 0.25]),
    ):
        (tmp_path / name).mkdir()
        records = [{"step": step, "epoch": 2.0 * step, "train_loss": 1.0} for step in range(4)]
        for step, value in enumerate(top1, 1):
            scores = {"val_top1": 0.0, "val_loss": 9.0, f"{prefix}_top1": value, f"{prefix}_loss": 2 - value}
            records.append({"step": step, "epoch": 2.0 * step, **scores})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_runs_with_several_seeds_are_one_curve_with_a_band(capsys):
    curves = compare_runs.read_curves(["lion-0", "lion-1"])
    assert curves.epochs.tolist() == [2, 4]
    assert curves.top1.tolist() == [[0.25, 0.5], [0.5, 0.75]] and curves.loss.tolist() == [[1.75, 1.5], [1.5, 1.25]]
    assert compare_runs.main(["out.png", "Lion=lion-*", "SGD=sgd"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Lion: 2 runs, top-1 62.5 % (50.0 to 75.0) after 4 epochs",
        "SGD: 1 run, top-1 25.0 % after 4 epochs",
    ]
    pictures = [compare_runs.draw({"Lion": compare_runs.read_curves(names)}, "png") for names in (["lion-0"], ["sgd"])]
    drawn = [np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures]
    assert all(picture.std() > 1 for picture in drawn) and (drawn[0] != drawn[1]).any()
    assert compare_runs.main(["out.svg", "Lion=lion-*"]) == 0


def test_mistakes_are_named(capsys):
    Path("late").mkdir()
    Path("late/metrics.jsonl").write_text('{"step": 5, "epoch": 5, "val_top1": 0.5, "val_loss": 1}')
    for arguments, expected in (
        (["out.png", "lion"], "lion names no runs, expected NAME=WORKDIRS"),
        (["out.png", "a=nothing-*"], r"nothing-\* has no evaluation in a metrics.jsonl"),
        (["out.jpx", "a=sgd"], "a picture's name must end in .svg, .png or .pdf, got .jpx"),
        (["out.png", "a=l*"], "late, lion-0, lion-1 were not evaluated after the same epochs: name them apart"),
        (["no/out.png", "a=sgd"], "no/out.png cannot be written"),
    ):
        with pytest.raises(UserError, match=expected):
            compare_runs.main(arguments)
    assert compare_runs.main([]) == 2 and "NAME=WORKDIRS" in capsys.readouterr().err
