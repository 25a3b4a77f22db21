"""What experiments need, through the real command line: files of options, what is recorded of a run, and its knobs."""

import json

import pytest
import yaml
from small import TRAIN, read_metrics

pytestmark = pytest.mark.programs

RECIPE = {
    **{"optimizer": "lion", "betas": [0.9, 0.98], "loss": "binary_cross_entropy", "mixup": 0.8, "mix_off_epoch": 0.5},
    **{"warmup_epochs": 0.5, "warmup_learning_rate": "1e-4", "final_learning_rate": 2e-4, "ema_decay": 0.5},
    **{"ema_start": 0.5, "learning_rate": 1e-3, "workdir": "first", "wandb": "leaves"},
}


@pytest.fixture
def recipe(tmp_path, finetune) -> list:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return [*finetune, "--config", "recipe.yaml"]


def test_a_run_by_a_file_is_recorded_and_repeated(run_command, recipe, tmp_path):
    """Six steps of four of 24 images, stopped after four of them; then all of it again, by its config.json."""
    offline = {"WANDB_MODE": "offline"}
    run_command(*recipe, "--max-steps", "4", **offline)
    process = run_command(*recipe, "--keep", "3", **offline)
    assert "run: steps 5 to 6 of 6" in process.stdout
    records = read_metrics(tmp_path / "first")
    training = [record for record in records if "train_loss" in record]
    assert training[0]["learning_rate"] == 1e-4 and 2e-4 < training[-1]["learning_rate"] < 5e-4
    assert all(record["train_loss"] < 1 for record in training)  # Cross-entropy begins at log 3.
    assert "ema_val_top1" in records[-1]

    first, second = map(json.loads, (tmp_path / "first" / "starts.jsonl").read_text().splitlines())
    assert first["command"].endswith("--config recipe.yaml --max-steps 4") and second["command"].endswith("--keep 3")
    assert (first["after_step"], second["after_step"]) == (0, 4) and first["directory"] == str(tmp_path)
    run_id = (tmp_path / "first" / "wandb_id.txt").read_text()
    histories = list((tmp_path / "first" / "wandb").glob(f"offline-run-*-{run_id}/*.wandb"))
    assert len(histories) == 2 and all(b"ema_val_top1" in path.read_bytes() for path in histories)

    again = [TRAIN, "finetune", "--config", "first/config.json", "--workdir", "second", "--wandb", "None"]
    run_command(*again)
    repeated = [record for record in read_metrics(tmp_path / "second") if "train_loss" in record]
    assert [record["step"] for record in repeated] == [1, 2, 3, 4, 5, 6]
    for before, after in zip(training, repeated, strict=True):
        assert after == pytest.approx(before, rel=1e-4)
    assert not (tmp_path / "second" / "wandb").exists()

    process = run_command(TRAIN, "--config", "first/config.json", "--seed", "1", status=1)
    assert "first holds a run of another configuration (seed was 0 and is now 1)" in process.stderr
    assert "this run is done" in run_command(TRAIN, "--config", "first/config.json").stdout
    assert len((tmp_path / "first" / "starts.jsonl").read_text().splitlines()) == 2

    process = run_command(*again[:-2], "--final-learning-rate", "0.1", "--no-resume", status=1)
    assert "--final-learning-rate must be at most the peak learning rate, which is 0.001, got 0.1" in process.stderr
    assert len(read_metrics(tmp_path / "second")) == 7  # Nothing was replaced.


def test_a_head_learns_on_a_still_trunk(run_command, finetune, tmp_path):
    """Every step has all 24 images, and the learning rate is next to nothing: the losses are equal."""
    still = ["--squash", "--no-flip", "--color-jitter", "0", "--batch-size", "24", "--epochs", "3"]
    rates = ["--learning-rate", "1e-12", "--dropout-rate", "0.3", "--optimizer", "sgd", "--momentum", "0.5"]
    run_command(*finetune, *still, *rates, "--head-only", "--seed", "3")
    losses = [record["train_loss"] for record in read_metrics(tmp_path / "runs/finetune") if "train_loss" in record]
    assert len(losses) == 3 and losses == pytest.approx([losses[0]] * 3, abs=1e-6)
