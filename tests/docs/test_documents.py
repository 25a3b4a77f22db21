"""The documents and the papers of the checkout agree with each other and with the code."""

import re
import tomllib

import pytest
import yaml
from documents import DOCUMENTS, anchors, links, make_targets
from small import ROOT

import gcvit_flax

README = ROOT / "README.md"
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WIDTH = 120


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE).group(1)
    return [line.strip() for line in lines.splitlines()]


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 60


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_short_but_for_tables(document):
    lines = document.read_text().splitlines()
    assert [line for line in lines if len(line) > WIDTH and (document == README or not line.startswith("|"))] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_document_is_linked_from_the_readme():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(README)}
    assert {*(ROOT / "docs").glob("*.md")} <= linked


def test_table_of_variants():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([\d, ]+) \| (\d+) \|", README.read_text(), re.MULTILINE)
    expected = [
        (name, str(config.embed_dim), ", ".join(map(str, config.depths)), str(config.image_size[0]))
        for name, config in gcvit_flax.VARIANTS.items()
    ]
    assert rows == expected


def test_make_has_every_target_that_a_document_names():
    assert make_targets() <= set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE).group(1).split())


def test_a_bare_pytest_runs_what_make_test_runs():
    # In parallel, and modules in their order: the long ones of training do not come last.
    assert recipe("test") == ["$(RUN) -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder"]
    markers = [marker.partition(":")[0] for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    deselected = " and ".join(f"not {marker}" for marker in markers)
    assert f"-m '{deselected}'" in PYPROJECT["tool"]["pytest"]["ini_options"]["addopts"]
    selected = re.findall(r'-m pytest .*-m "?(\w+)', MAKEFILE)
    assert {*selected} == {*markers}


def test_pre_commit_does_what_make_lint_does():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"] for hook in repository["hooks"]]
    assert hooks == [command.replace("$(RUN)", ".venv/bin/python") for command in recipe("lint")]


def test_one_address_of_the_repository():
    texts = [path.read_text() for path in (*DOCUMENTS, ROOT / "pyproject.toml", ROOT / "CITATION.cff")]
    assert len(set(re.findall(r"https://github\.com/(\w+)/gcvit_flax", "\n".join(texts)))) == 1
