"""A Cloud Storage server for tests of gs:// folders, in a process of its own."""

import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

from small import ROOT


class CloudStorage:
    """`with CloudStorage() as store:` starts an empty server, whose objects survive all kills of its clients.

    A program finds it with `environment` added to its own, under gs://bucket/...; `read`, `write`, `names` and `delete`
    reach the objects without any of the libraries under test. `requests` are all that were made, and `fail` makes it
    refuse some. What the server does not model is in gcs/emulator.py. It needs the environment of `make test-gcs`.
    """

    bucket = "bucket"

    def __enter__(self) -> "CloudStorage":
        command = [sys.executable, str(ROOT / "tests" / "gcs" / "emulator.py")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = self._process.stdout.readline().strip()  # It prints the port once it listens.
        assert port, "the server does not start: is gcp-storage-emulator installed? (make test-gcs)"
        self.address = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    @property
    def environment(self) -> dict[str, str]:
        """Leads the clients of a program to the server: Google's own, gcsfs and TensorStore."""
        return {
            "STORAGE_EMULATOR_HOST": self.address,
            "FSSPEC_GCS_TOKEN": "anon",
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        }

    def names(self, prefix: str = "") -> list[str]:
        """The names of all objects that begin with `prefix`."""
        found = self._ask("GET", f"/storage/v1/b/{self.bucket}/o?{urllib.parse.urlencode({'prefix': prefix})}")
        return [item["name"] for item in json.loads(found)["items"]]

    def read(self, name: str) -> bytes | None:
        """The content of an object, None if there is none of that name."""
        try:
            return self._ask("GET", f"/download/storage/v1/b/{self.bucket}/o/{urllib.parse.quote(name, '')}?alt=media")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def write(self, name: str, content: bytes = b"") -> None:
        """Writes an object, a text or an empty one."""
        head = f"--part\n\n{json.dumps({'name': name})}\n--part\nContent-Type: application/octet-stream\n\n"
        path = f"/upload/storage/v1/b/{self.bucket}/o?uploadType=multipart"
        self._ask("POST", path, head.encode() + content + b"\n--part--", "multipart/related; boundary=part")

    def delete(self, prefix: str) -> None:
        """Removes all objects whose names begin with `prefix`."""
        for name in self.names(prefix):
            self._ask("DELETE", f"/storage/v1/b/{self.bucket}/o/{urllib.parse.quote(name, '')}")

    def requests(self) -> list[str]:
        """All requests so far, "METHOD path?query"."""
        return self._ask("GET", "/requests").decode().splitlines()

    def fail(self, requests: str, status: int, message: str = "made to fail by a test", spared: int = 0) -> None:
        """Answers each request that the pattern `requests` is found in with `status`, but for the first `spared`."""
        fault = {"requests": requests, "status": status, "message": message, "spared": spared}
        self._ask("PUT", "/fault", json.dumps(fault).encode())

    def recover(self) -> None:
        """Ends what `fail` has begun."""
        self._ask("PUT", "/fault", b"null")

    def _ask(self, method: str, path: str, content: bytes | None = None, kind: str = "application/json") -> bytes:
        request = urllib.request.Request(self.address + path, content, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()
