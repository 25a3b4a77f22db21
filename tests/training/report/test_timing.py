import sys

import numpy as np
import pytest

CHILD = "from gcvit_flax.training.report.timing import peak_memory; print(peak_memory([]))"


@pytest.mark.skipif(sys.platform == "darwin", reason="what a parent had counts there, too")
def test_the_peak_memory_of_a_process_is_its_own(run_command):
    large = np.ones(2**26)  # Half a GiB, in the process that starts the other.
    found = float(run_command("-c", CHILD).stdout)
    assert 0.05 < found < large.nbytes / 2**30
