"""The benchmarks as a user calls them, at a size that says nothing about speed."""

import json

from small import ROOT

SMALL_RUN = ["-m", "benchmarks.compare", "--batch", "2", "--image-size", "32", "--rounds", "1", "--peer", "none"]


def test_compare_reports_what_ours_takes(run_command):
    done = run_command(*SMALL_RUN, "--json", PYTHONPATH=str(ROOT))
    results = json.loads(done.stdout)
    ours = results["ours"]
    assert 0 < ours["min_s"] <= ours["median_s"]
    assert ours["images_per_second"] == 2 / ours["median_s"]
    assert ours["gflop_per_second"] > 0 and ours["compile_s"] > 0 and 0 < ours["peak_memory_gib"] < 16
    assert results["ceilings"]["matmul_gflop_per_second"] > 0
    assert "ratio" not in results


def test_compare_says_how_to_install_a_peer(run_command):
    done = run_command("-m", "benchmarks.compare", "--peer", "timm", PYTHONPATH=str(ROOT), status=1)
    assert "pip install torch" in done.stderr and "Traceback" not in done.stderr


def test_compare_refuses_no_rounds(run_command):
    done = run_command(*SMALL_RUN, "--rounds", "0", PYTHONPATH=str(ROOT), status=1)
    assert "--rounds" in done.stderr
