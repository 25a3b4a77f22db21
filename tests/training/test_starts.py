import json
import subprocess

import jax
import pytest
from etils import epath

from gcvit_flax.training import starts


def git(folder, *arguments) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in a repository of its own."""
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(package.parent, "init", "--quiet")
    monkeypatch.setattr(starts, "_PACKAGE", package)
    return package


def start(workdir) -> dict:
    workdir.mkdir(exist_ok=True)
    starts.record_start(epath.Path(workdir), 7, jax.local_devices())
    return json.loads((workdir / "starts.jsonl").read_text().splitlines()[-1])


def test_the_commit_and_whether_it_was_changed(package, tmp_path):
    git(package, "add", ".")
    git(package, "commit", "--quiet", "-m", "First")
    git(package, "tag", "v1")
    found = start(tmp_path / "run")
    assert found["commit"] == git(package, "rev-parse", "HEAD") and found["commit_changed"] is False
    (package / "__init__.py").write_text("changed = True\n")
    found = start(tmp_path / "run")
    assert found["commit"] == git(package, "rev-parse", "HEAD") and found["commit_changed"] is True
    assert len((tmp_path / "run" / "starts.jsonl").read_text().splitlines()) == 2


def test_a_package_that_is_installed_in_somebody_elses_repository_has_no_commit(package, tmp_path):
    (package.parent / "theirs.py").write_text("")
    git(package.parent, "add", "theirs.py")
    git(package.parent, "commit", "--quiet", "-m", "Theirs")
    found = start(tmp_path / "run")
    assert found["commit"] is None and found["commit_changed"] is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = start(tmp_path / "run")
    assert found["commit"] is None and found["jax"] == jax.__version__ and found["after_step"] == 7
