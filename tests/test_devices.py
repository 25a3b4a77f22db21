import logging

import jax
import numpy as np
import pytest
from small import full_disk

from gcvit_flax.devices import choose_devices, enable_compilation_cache, inference_options

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture(autouse=True)
def restored_settings():
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_number_of_devices_divides_the_batch():
    assert len(choose_devices(4)) == 2 and len(choose_devices(3)) == 1 and len(choose_devices(4, 1)) == 1
    with pytest.raises(ValueError, match="a batch of 3 does not divide over 2 devices"):
        choose_devices(3, 2)
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"--devices must be from 1 to 2, the number there are, got {count}"):
            choose_devices(4, count)


def test_compiled_programs_are_kept_if_possible(tmp_path, caplog):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "new" / "cache"))
    enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "new" / "cache") and not caplog.records

    (tmp_path / "file").touch()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None
    assert "compiled programs cannot be kept" in caplog.text


@pytest.mark.parametrize(("chosen", "remote", "expected"), [(1.0, False, 0.0), (3.0, False, 3.0), (1.0, True, 1.0)])
def test_short_programs_are_kept_too_but_in_buckets(tmp_path, monkeypatch, chosen, remote, expected):
    """Unless the user has chosen a time."""
    monkeypatch.setattr("gcvit_flax.devices.is_remote", lambda folder: remote)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", chosen)
    enable_compilation_cache()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == expected


def test_a_full_disk_disables_the_cache(tmp_path, caplog):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    with caplog.at_level(logging.WARNING), full_disk():
        enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None
    assert "compiled programs cannot be kept" in caplog.text


def test_by_default_they_are_kept_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".cache" / "gcvit_flax")


def test_convolutions_of_inference_run_on_all_cores():
    """Those of YNNPACK, which would be a fusion of its own, run on one."""

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    program = jax.jit(conv).lower(np.zeros((1, 112, 112, 64), np.float32), np.zeros((3, 3, 64, 64), np.float32))
    options = inference_options(jax.devices()[0])
    assert "ynn" in program.compile().as_text() and "ynn" not in program.compile(options).as_text()
