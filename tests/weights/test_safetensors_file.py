import pytest
import safetensors.numpy


@pytest.mark.parametrize("keep", [0.001, 0.5, 0.999])
def test_truncated(tmp_path, official, rejects, keep):
    content = safetensors.numpy.save(official)
    (tmp_path / "t.safetensors").write_bytes(content[: int(len(content) * keep)])
    assert "truncated or damaged safetensors" in rejects(tmp_path / "t.safetensors")
