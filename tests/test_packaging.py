"""The installed package: console scripts, types, light imports, and metadata that agree."""

import functools
import importlib
import re
import runpy
import subprocess
import sys
import tomllib

import pytest
import yaml
from small import ROOT

import gcvit_flax
from gcvit_flax import scripts

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Each console script and the program that it runs.
PROGRAMS = {
    "gcvit-train": "train.py",
    "gcvit-convert": "convert_keras_weights.py",
    "gcvit-predict": "gcvit_flax.predict",
    "gcvit-evaluate": "gcvit_flax.evaluate",
    "gcvit-probe": "gcvit_flax.probe",
    "gcvit-embed": "gcvit_flax.embed",
    "gcvit-export": "gcvit_flax.export",
    "gcvit-attention-maps": "gcvit_flax.attention_maps",
    "gcvit-plan": "gcvit_flax.plan",
    "gcvit-summary": "gcvit_flax.summary",
}
HEAVY = ("tensorflow", "torch", "matplotlib", "grain", "tensorflow_datasets")


def console_script(name: str):
    module, function = PROJECT["project"]["scripts"][name].split(":")
    return getattr(importlib.import_module(module), function)


def original(program: str) -> None:
    if program.endswith(".py"):
        runpy.run_path(str(ROOT / program), run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__")


def ran(function, name, arguments, monkeypatch, capsys) -> tuple:
    """Exit status, stdout and stderr, without the program's names and rules whose length depends on them."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        function()
    names = re.compile("|".join(map(re.escape, (*PROGRAMS, *PROGRAMS.values()))) + "|python -m |-{4,}")
    return stop.value.code, *(" ".join(names.sub("", text).split()) for text in capsys.readouterr())


def test_every_program_has_a_console_script():
    assert PROJECT["project"]["scripts"].keys() == PROGRAMS.keys()


# runpy warns if a module is already imported; removing it would give other tests a second copy.
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_console_scripts_are_the_same_programs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mistakes = [["nowhere", "out"], ["--frobnicate"]] if name != "gcvit-train" else [["digit"], ["--frobnicate"]]
    mistakes += [["nowhere", "--data", "digits"]] if name in ("gcvit-evaluate", "gcvit-probe") else []
    for arguments, statuses in ([["--help"], (0,)], *([mistake, (1, 2)] for mistake in mistakes)):
        actual = ran(console_script(name), name, arguments, monkeypatch, capsys)
        program = functools.partial(original, PROGRAMS[name])
        assert actual == ran(program, PROGRAMS[name], arguments, monkeypatch, capsys)
        assert actual[0] in statuses and (actual[0] != 1 or actual[2].startswith("error: "))


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_has_the_name_that_was_typed(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{name}", "--help"])
    with pytest.raises(SystemExit):
        console_script(name)()
    assert f"usage: {name} " in capsys.readouterr().out


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gcvit-train"])
    monkeypatch.delitem(sys.modules, "gcvit_flax.train", raising=False)
    monkeypatch.setitem(sys.modules, "tyro", None)
    with pytest.raises(SystemExit) as stop:
        scripts.train()
    assert stop.value.code == 1
    assert capsys.readouterr().err == 'error: tyro is not installed: pip install ".[train]" brings it\n'


def test_public_names_are_found():
    assert all(getattr(gcvit_flax, name) is not None for name in gcvit_flax.__all__)
    assert gcvit_flax.fold_for_inference is gcvit_flax.fuse_parameters  # Its former name.
    with pytest.raises(AttributeError, match="no attribute 'fold'"):
        _ = gcvit_flax.fold


def test_the_wheel_has_types():
    assert (ROOT / "gcvit_flax" / "py.typed").is_file()
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["gcvit_flax"]}


def test_the_citation_and_the_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert {"type", "title", "authors"} <= citation["preferred-citation"].keys()
    assert str(citation["version"]) == gcvit_flax.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.group(1) == gcvit_flax.__version__


def test_importing_is_light():
    for module in ("gcvit_flax", "gcvit_flax.predict", "gcvit_flax.scripts"):
        program = f"import sys, {module}; print(*set({HEAVY}) & set(sys.modules))"
        process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert process.stdout.split() == [], module
