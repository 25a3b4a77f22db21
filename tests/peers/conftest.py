import os
import subprocess
from pathlib import Path

import pytest
from small import ROOT


@pytest.fixture(scope="session")
def run_peer():
    """Runs a script of this folder with another environment's Python, whose path is in an environment variable."""

    def run(variable, script, *arguments):
        python = os.environ.get(variable)
        if python is None:
            pytest.fail(f"{variable} is not set: make test-peers and make test-timm set it, and make the environment")
        command = [python, Path(__file__).with_name(script), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]

    return run
