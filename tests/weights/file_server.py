"""An HTTP server of one file on this machine, for what would be downloaded."""

import contextlib
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator

CONTENT = bytes(range(256)) * 20_000  # 5 MB, several chunks


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.content under an ETag, with ranges; can be told to stop early or to misbehave."""

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        if self.path == "/missing":
            self.send_error(404)
            return
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        content, tag = server.content, f'"{hashlib.md5(server.content).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked.group(1)) if asked and server.ranges and self.headers.get("If-Range") in (tag, None) else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        server.hold.wait(60)
        self.wfile.write(content[start : start + server.stop_after])

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serve() -> Iterator[http.server.ThreadingHTTPServer]:
    """A server of CONTENT, whose requests are listed, and whose attributes the tests change."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.requests, server.ranges, server.shift = CONTENT, [], True, 0
        server.stop_after, server.hold, server.redirect = len(CONTENT), threading.Event(), None
        server.hold.set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_port}/weights.bin"
        yield server
        server.shutdown()
