import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
from small import ROOT, SMALL, read_metrics

pytestmark = pytest.mark.programs

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MICRO = ROOT / "tests" / "fixtures" / "micro.keras302.keras"


@pytest.fixture
def parameters(photos, tmp_path, monkeypatch):
    """The values that replace each notebook's parameters, so that it runs offline and at a small size."""
    from gcvit_flax.weights.convert import convert

    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    convert(MICRO, "micro")
    flowers = {"data": f"folder:{photos}", "start": [], "options": [*SMALL, "--log-every", "1", "--epochs", "1"]}
    digits = ["digits", *SMALL, "--max-steps", "2"]
    return {
        "ablation": {"options": digits, "seeds": [0], "folder": "ablation"},
        "quickstart": {"weights": MICRO, "folder": "quickstart"},
        "finetune_flowers": flowers,
        "attention_maps": {"model_dir": "micro", "level": 0, "block": 1},
        "cloud_tpu": {},
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_runs_from_start_to_end(path, parameters):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells[0]["metadata"]["tags"] == ["parameters"]
    namespace = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), namespace)
        assert not cell["outputs"], "notebooks are kept without outputs"
        if number == 0:
            assert parameters[path.stem].keys() <= namespace.keys()
            namespace |= parameters[path.stem]
    plt.close("all")
    if path.stem == "ablation":
        runs = [read_metrics(Path("ablation") / f"{name}-0") for name in namespace["switches"]]
        assert len({records[-1]["val_loss"] for records in runs}) == 3, "a switch had no effect"
        assert len({*namespace["parameters"].values()}) == 2


def test_notebooks_define_no_layers():
    assert not any("nn.Module" in path.read_text() for path in NOTEBOOKS) and len(NOTEBOOKS) == 5
