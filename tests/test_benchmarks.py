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


def test_compare_input_reports_ours(run_command, photos):
    small = ["--images", photos / "train", "--image-size", "32", "--batch", "2", "--workers", "1", "--seconds", "0.1"]
    command = ["-m", "benchmarks.compare_input", *small, "--rounds", "2", "--sides", "ours"]
    lines = run_command(*command, PYTHONPATH=str(ROOT)).stdout.splitlines()
    assert (
        len(lines) == 3
        and lines[0].startswith("1 ours: ")
        and lines[-1].endswith("ours is 1.00 times as fast per core")
    )
    done = run_command(*command, "torchvision", "--peers", "/bin/false", PYTHONPATH=str(ROOT), status=1)
    assert "pip install" in done.stderr and "Traceback" not in done.stderr


def test_many_files_reports_what_workers_get(run_command):
    done = run_command("-m", "benchmarks.many_files", "--images", "3000", "--workers", "1", PYTHONPATH=str(ROOT))
    assert "2000 + 1000 images opened in " in done.stdout and "worker 0: " in done.stdout
    assert "sent to each worker: 0.0" in done.stdout
