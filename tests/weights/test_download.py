import concurrent.futures
import hashlib
import logging
import threading
import time

import pytest
from file_server import CONTENT

from gcvit_flax.errors import UserError
from gcvit_flax.weights import download as module
from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.download import download, fetch, is_published, sha256
from gcvit_flax.weights.model_folder import read_folder_config
from gcvit_flax.weights.published import PUBLISHED, Published


def test_a_file_is_fetched_once(server, tmp_path):
    published = Published(server.url, size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest()[:8])
    path = download(published, tmp_path)
    assert path.read_bytes() == CONTENT and path.name == "weights.bin"
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.bin"]
    assert download(published, tmp_path) == path
    assert len(server.requests) == 1


def test_an_interrupted_download_is_resumed(server, tmp_path):
    server.stop_after = 3_000_000
    with pytest.raises(UserError, match="run again to resume"):
        download(Published(server.url), tmp_path)
    assert not list(tmp_path.rglob("weights.bin"))
    server.stop_after = len(CONTENT)
    assert download(Published(server.url), tmp_path).read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=3000000-"


def test_a_download_waits_for_another_of_the_same_file(server, tmp_path, caplog):
    server.hold = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool, caplog.at_level(logging.WARNING, "gcvit_flax"):
        both = [pool.submit(download, Published(server.url), tmp_path) for _ in range(2)]
        while "waiting for it" not in caplog.text and len(server.requests) < 2:
            time.sleep(0.01)
        server.hold.set()
        paths = {one.result() for one in both}
    assert len(paths) == len(server.requests) == 1
    assert paths.pop().read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["content", "no ranges"])
def test_what_cannot_be_resumed_is_fetched_afresh(server, tmp_path, change):
    server.stop_after = 3_000_000
    with pytest.raises(UserError):
        download(Published(server.url), tmp_path)
    server.stop_after = len(CONTENT)
    if change == "content":
        server.content = CONTENT[::-1]
    else:
        server.ranges = False
    assert download(Published(server.url), tmp_path).read_bytes() == server.content


def test_a_complete_partial_file_is_fetched_afresh(server, tmp_path, monkeypatch):
    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_verify", crash)
        download(Published(server.url), tmp_path)
    assert download(Published(server.url), tmp_path).read_bytes() == CONTENT


def test_a_server_that_sends_another_part_is_not_believed(server, tmp_path):
    server.stop_after = 3_000_000
    with pytest.raises(UserError):
        download(Published(server.url), tmp_path)
    server.stop_after, server.shift = len(CONTENT), 7
    with pytest.raises(UserError, match="another part"):
        download(Published(server.url), tmp_path)


@pytest.mark.parametrize(
    ("known", "problem"),
    [({"size": 17}, "has 5,120,000 bytes, expected 17"), ({"sha256": "0badc0de"}, "expected 0badc0de")],
)
def test_another_file_than_the_published_one_is_refused(server, tmp_path, known, problem):
    with pytest.raises(UserError, match=problem):
        download(Published(server.url, **known), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_connection_and_no_file(server, tmp_path):
    with pytest.raises(UserError, match="answered 404"):
        download(Published(server.url.replace("weights.bin", "missing")), tmp_path)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"cannot be reached \(.*refused.*\): check the network, or"):
        download(Published(server.url), tmp_path)


def test_a_url_converts(server, tmp_path, files, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server.content = (files / "micro.keras302.keras").read_bytes()
    report = convert(server.url, tmp_path / "m")
    assert server.url in str(report)
    assert read_folder_config(tmp_path / "m")["provenance"]["source"] == server.url
    assert len(list((tmp_path / "cache" / "gcvit_flax").rglob("weights.bin"))) == 1


def test_a_published_name_converts(server, tmp_path, files, monkeypatch):
    """With its license, and without the notice that other files of the example's layout get."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = files / "micro.keras302.keras"
    server.content = source.read_bytes()
    monkeypatch.setitem(PUBLISHED, "gcvit_test", Published(server.url, len(server.content), sha256(source)))
    report = convert("gcvit_test", tmp_path / "m")
    assert report.license == "CC-BY-NC-SA-4.0" and report.notice is None
    assert read_folder_config(tmp_path / "m")["weights_licence"] == "CC-BY-NC-SA-4.0"
    assert is_published("x", source), "recognized by its size"


def test_the_table(tmp_path):
    assert PUBLISHED["gcvit_xxtiny"].url.endswith("/v1.1.6/gcvitxxtiny.keras")
    assert all(entry.url.startswith("https://") for entry in PUBLISHED.values())
    assert len({entry.url for entry in PUBLISHED.values()}) == len(PUBLISHED)
    with pytest.raises(UserError, match="one of the names gcvit_xxtiny"):
        fetch("gcvit_gigantic")


@pytest.mark.parametrize(
    "url",
    [
        *("http://[::1/x", "http://", "http:///x", "http://localhost:99999/x", "http://localhost:port/x"),
        *("http://\u2603/x", "http://local host/x", "http://localhost/\n", "http://localhost:0/x"),
    ],
)
def test_an_address_that_is_none(url, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="is no address"):
        fetch(url)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 5000])
def test_an_address_whose_end_is_no_name_of_a_file(server, tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch(f"{server.url}/{name}").read_bytes() == CONTENT


def test_a_server_that_leads_to_an_address_that_is_none(server, tmp_path):
    server.redirect = "http://[::1/x"
    with pytest.raises(UserError, match=r"stopped .*Invalid IPv6"):
        download(Published(server.url), tmp_path)
