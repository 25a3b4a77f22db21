"""A Cloud Storage server on this machine, in memory, which can be told to fail: `python emulator.py`.

It prints its port, and serves until it is killed. It is the package gcp-storage-emulator with what that lacks:
generations in the headers of downloads, which TensorStore asks for, and two requests of our own, GET /requests (all
requests so far, one a line) and PUT /fault (a JSON object: see `Fault`; null ends it).

Not modeled: preconditions, long listings in pages, the races of several clients, and the limit of one change of an
object a second.
"""

import dataclasses
import functools
import json
import re
import threading
from http.server import ThreadingHTTPServer
from urllib.parse import unquote

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects

BUCKET = "bucket"


def with_generation(plain):
    """The handler `plain` of downloads, with the object's generation in the headers."""

    def download(request, response, storage, *arguments, **options):
        try:
            stored = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        except NotFound:
            stored = {}
        for name in stored.keys() & {"generation", "metageneration"}:
            response[f"x-goog-{name}"] = stored[name]
        return plain(request, response, storage, *arguments, **options)

    return download


# The server's table of requests is made on import.
objects.download = with_generation(objects.download)

from gcp_storage_emulator.server import RequestHandler  # noqa: E402
from gcp_storage_emulator.storage import Storage  # noqa: E402


@dataclasses.dataclass
class Fault:
    """After `spared` more requests that match the pattern `requests`, each of them is answered with `status`."""

    requests: str
    status: int
    message: str
    spared: int = 0

    def strikes(self, request: str) -> bool:
        if not re.search(self.requests, request):
            return False
        self.spared -= 1
        return self.spared < 0


class Handler(RequestHandler):
    requests: list[str]
    fault: Fault | None = None
    lock = threading.Lock()

    def answer(self, plain) -> None:
        with self.lock:
            request = f"{self.command} {unquote(self.path)}"
            if self.path == "/requests":
                self.reply(200, "\n".join(self.requests))
            elif self.path == "/fault":
                described = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                type(self).fault = described and Fault(**described)
                self.reply(200, "")
            else:
                self.requests.append(request)
                if self.fault and self.fault.strikes(request):
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    error = {"code": self.fault.status, "message": self.fault.message}
                    self.reply(self.fault.status, json.dumps({"error": error}))
                else:
                    plain(self)

    def reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def answering(name: str):
    return lambda handler: handler.answer(getattr(RequestHandler, name))


for name in ("do_GET", "do_POST", "do_PUT", "do_DELETE", "do_PATCH"):
    setattr(Handler, name, answering(name))


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # TensorStore opens many connections at once.


if __name__ == "__main__":
    Handler.requests = []
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, storage)
    server = Server(("127.0.0.1", 0), functools.partial(Handler, storage))
    print(server.server_port, flush=True)
    server.serve_forever()
