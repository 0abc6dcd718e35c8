"""A web server on the loopback interface that breaks in the ways that servers break."""

import base64
import contextlib
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator


class LoopbackServer:
    """Serves `files`, each request as the next entry of `script` says, and whole when the script is at its end.

    `ways` tells how a path is answered at all times, `head` how HEAD is where `ways` does not tell. `requests` lists what was
    asked with GET: pairs of path and headers; `heads` lists the paths that were asked with HEAD, which take no entry of `script`.
    """

    def __init__(self, files: dict[str, bytes], md5: bool = True, etag: bool = True):
        self.files, self.md5, self.etag = files, md5, etag
        self.script: list[Callable] = []
        self.ways: dict[str, Callable] = {}
        self.head: Callable = whole
        self.requests: list[tuple[str, dict]] = []
        self.heads: list[str] = []
        self.released = threading.Event()
        self.address = ""

    def answer(self, handler) -> None:
        way = self.ways.get(handler.path)
        if handler.command == "HEAD":
            self.heads.append(handler.path)
            return (way or self.head)(handler, self)
        self.requests.append((handler.path, dict(handler.headers)))
        (way or (self.script.pop(0) if self.script else whole))(handler, self)


@contextlib.contextmanager
def serving(files: dict[str, bytes], **kwargs) -> Iterator[LoopbackServer]:
    """Runs a `LoopbackServer` in a thread."""
    loopback = LoopbackServer(files, **kwargs)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            with contextlib.suppress(ConnectionError):  # the client may have seen enough
                loopback.answer(self)
            self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # with fewer, a crowd of connections waits a second for the next attempt

    server = Server(("127.0.0.1", 0), Handler)
    loopback.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield loopback
    finally:
        loopback.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def whole(handler, server, *, limit=None, ranges=True, corrupt=False, headers=None, start=None) -> None:
    """Answers with the file or, where `Range` asks so, with its end."""
    data = server.files.get(handler.path)
    if data is None:
        return status(404)(handler, server)
    etag = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
    asked = handler.headers.get("Range")
    fresh = handler.headers.get("If-Range", etag) == etag
    first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and ranges and fresh else 0
    shown = first if start is None else start
    sent = data[shown:]
    handler.send_response(206 if asked and ranges and fresh else 200)
    fields = {"Content-Length": str(len(sent))}
    if asked and ranges and fresh:
        fields["Content-Range"] = f"bytes {shown}-{len(data) - 1}/{len(data)}"
    if server.etag:
        fields["ETag"] = etag
    if server.md5:
        fields["x-ms-blob-content-md5"] = base64.b64encode(hashlib.md5(data).digest()).decode()
    for name, value in (fields | (headers or {})).items():
        if value is not None:
            handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    if corrupt:
        sent = bytes([sent[0] ^ 1]) + sent[1:]
    handler.wfile.write(sent if limit is None else sent[:limit])


def answering(**kwargs) -> Callable:
    """`whole` with other ways: `limit` bytes and then the end, no `ranges`, a `corrupt` byte, other `headers`."""
    return lambda handler, server: whole(handler, server, **kwargs)


def status(code: int) -> Callable:
    def answer(handler, server):
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(location: str) -> Callable:
    def answer(handler, server):
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def stalled(after: int) -> Callable:
    """Sends some bytes and then nothing, until the test is over."""

    def answer(handler, server):
        whole(handler, server, limit=after)
        handler.wfile.flush()
        server.released.wait(60)

    return answer
