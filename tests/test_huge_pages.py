import platform

import pytest

PROGRAM = """
import os, pathlib, sys
from gcvit_flax import huge_pages

huge_pages._ENABLED = pathlib.Path("enabled")
huge_pages._ACCELERATORS = ({accelerators})
huge_pages.restart_with_huge_pages()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.flags.utf8_mode, sys.argv)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.parametrize(
    ("enabled", "accelerators", "variables", "expected"),
    [
        ("always [madvise] never", "", {}, "glibc.malloc.hugetlb=1"),
        ("[always] madvise never", "", {}, None),
        ("always madvise [never]", "", {}, None),
        ("always [madvise] never", "'null',", {}, None),
        ("always [madvise] never", "", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, "glibc.malloc.arena_max=1"),
    ],
)
def test_a_program_starts_again_with_huge_pages_where_they_help(
    run_command, tmp_path, enabled, accelerators, variables, expected
):
    (tmp_path / "enabled").write_text(enabled)
    (tmp_path / "train.py").write_text(PROGRAM.format(accelerators=accelerators))
    printed = run_command("-X", "utf8", "train.py", "an option", **variables).stdout
    assert printed.endswith(f" {expected} 1 ['train.py', 'an option']\n") and printed.count("\n") == 1


def test_other_programs_do_not_start_again(run_command, tmp_path):
    (tmp_path / "enabled").write_text("always [madvise] never")
    (tmp_path / "tests.py").write_text(PROGRAM.format(accelerators=""))
    assert " None 0 ['tests.py']" in run_command("tests.py").stdout
