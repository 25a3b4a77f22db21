"""Weight files damaged and forged at random, for a quarter of an hour."""

import os
import time

import pytest
from weight_fuzz import fuzz
from weight_reader import NEEDS_LINUX

SECONDS = float(os.environ.get("FUZZ_SECONDS", "900"))

pytestmark = [pytest.mark.soak, NEEDS_LINUX]


def test_no_damaged_or_forged_file_surprises_a_reader(tmp_path):
    report = fuzz(tmp_path, seconds=SECONDS, first_seed=int(time.time()))
    print(f"\n{report}")
    assert not report.found
