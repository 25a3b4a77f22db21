"""Options of the input reach it, in training and where its images are drawn."""

import pytest
from small import SMALL

from gcvit_flax.data import batches
from gcvit_flax.training import command_line, launch, loop, show_batch


@pytest.mark.parametrize("program", ["train", "show_batch"])
def test_they_reach_the_batches(program, photos, tmp_path, monkeypatch):
    given = []

    def recorded(*arguments, **options):
        given.append(options)
        return batches.training_batches(*arguments, **options)

    options = ["--crop-interpolation", "bilinear", "--repeated-augmentation", "2", "--skip-corrupt", "--max-steps", "1"]
    arguments = ["finetune", "--data", f"folder:{photos}", *SMALL, *options, "--workdir", str(tmp_path / "run")]
    if program == "train":
        monkeypatch.setattr(loop, "training_batches", recorded)
        launch.train(command_line.parse(arguments))
    else:
        monkeypatch.setattr(show_batch, "training_batches", recorded)
        show_batch.main([str(tmp_path / "out.png"), *arguments])
    assert (given[0]["interpolation"], given[0]["repeats"], given[0]["skip_corrupt"]) == ("bilinear", 2, True)
