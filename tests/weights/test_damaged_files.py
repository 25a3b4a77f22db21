from weight_fuzz import fuzz
from weight_reader import NEEDS_LINUX

pytestmark = NEEDS_LINUX


def test_damaged_and_forged_files_are_refused_in_one_sentence(tmp_path):
    """The first files of what `make soak` does for a quarter of an hour."""
    report = fuzz(tmp_path, files=60)
    assert report.files == 60 and report.outcomes["refused"] > 30 and not report.found, str(report)
