"""What can be said of the Dockerfile without Docker."""

import re
import tomllib

from small import ROOT

DOCKERFILE = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def test_what_is_copied_is_there_and_nothing_else_is_sent_to_docker():
    copied = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*" and sorted(line[1:] for line in lines if line.startswith("!")) == sorted(copied)


def test_the_package_can_be_built_from_what_is_copied():
    copied = " ".join(instructions("COPY")).split()
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "gcvit_flax"} <= {*copied}


def test_versions_are_those_of_the_constraints():
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert installs and all("-c constraints.txt" in line for line in installs)
    (extras,) = re.search(r'"\.\[(.+)\]"', installs[-1]).groups()
    assert {*extras.split(",")} <= PROJECT["optional-dependencies"].keys()
    # The newest Python that the constraints tell apart from the others.
    (image,) = instructions("FROM")
    newest = max(re.findall(r'python_version >= "(.+)"', (ROOT / "constraints.txt").read_text()))
    assert image == f"python:{newest}-slim"


def test_the_program_is_a_console_script_of_a_user_who_is_not_root():
    (program,) = instructions("ENTRYPOINT")
    assert re.fullmatch(r'\["(.+)"\]', program)[1] in PROJECT["scripts"]
    (user,) = instructions("USER")
    assert f"--uid {user} " in DOCKERFILE and user != "0"
