"""Fetches a file over HTTP."""

import base64
import binascii
import contextlib
import dataclasses
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

from captioner.fetch.partial import (
    CHUNK_BYTES,
    BrokenTransferError,
    DownloadError,
    FetchedFile,
    Note,
    PartialFile,
    RemoteFile,
    attempted,
    fetch_whole,
    public_address,
    reason_of,
)

_WORTH_RETRYING = (408, 425, 429, 500, 502, 503, 504)
_MISSING = (403, 404, 410)  # a store that hides what it has answers 403 for what it has not


def fetch_file(
    url: str,
    path: str | os.PathLike,
    *,
    timeout_s: float = 30.0,
    num_retries: int = 4,
    on_progress: Callable[[int, int | None], None] | None = None,
    on_retry: Callable[[str, float], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> FetchedFile:
    """Fetches `url` into `path`.

    The bytes gather in `path` + ".part", which the next call goes on with if the server still has the same file (its ETag
    or date, by `If-Range`). The length is checked against the server's, and the MD5 if the server names one
    (`x-ms-blob-content-md5` or `Content-MD5`).

    Args:
        url: http or https address. A name and password in it, as in https://NAME:PASSWORD@host/, are sent to that host
            alone (HTTP basic authentication) and shown in no message.
        path: path. An existing file is replaced.
        timeout_s: float. Longest silence of the server, in seconds.
        num_retries: int. Further attempts after one that brought nothing new.
        on_progress: called with the bytes that are there and the total, None where the server does not say. What it raises
            ends the attempts; the bytes are kept.
        on_retry: called with the reason and the seconds to wait before a further attempt.
        sleep: waits between attempts: 1, 2, 4 and so on up to 30 seconds.

    Returns:
        `FetchedFile`.

    Raises:
        DownloadError: If the server refuses, stays silent, or sends another file than it names.
        OSError: If the file cannot be written.
    """
    _require_http(url)
    return fetch_whole(
        url,
        path,
        lambda part: _transfer(part, timeout_s),
        num_retries=num_retries,
        on_progress=on_progress,
        on_retry=on_retry,
        sleep=sleep,
    )


def look_up_file(
    url: str, *, timeout_s: float = 30.0, num_retries: int = 4, sleep: Callable[[float], None] = time.sleep
) -> RemoteFile:
    """Asks a server of a file, without its bytes: with HEAD, or with a GET that is broken off where HEAD is refused.

    Args:
        url: as for `fetch_file`.
        timeout_s: as for `fetch_file`.
        num_retries: int. Further attempts after one that failed.
        sleep: as for `fetch_file`.

    Raises:
        DownloadError: If the server refuses or stays silent.
    """
    _require_http(url)
    return attempted(url, lambda: _look_up(url, timeout_s), num_retries=num_retries, sleep=sleep)


def _look_up(url: str, timeout_s: float) -> RemoteFile:
    with contextlib.suppress(DownloadError), _open(_request(url, method="HEAD"), url, timeout_s) as response:
        return _note_of(url, response).remote
    with _open(_request(url), url, timeout_s) as response:
        return _note_of(url, response).remote


def _transfer(part: PartialFile, timeout_s: float) -> None:
    """Brings a partial file to its whole length, or raises."""
    note, start = part.note(), part.size
    if note.total is not None and start > note.total:
        start = 0
    if start and start == note.total:
        return  # whole already: the last attempt ended before the file got its name
    ranges = {}
    if start and note.validator:
        ranges = {"Range": f"bytes={start}-", "If-Range": note.validator}
    try:
        response = _open(_request(part.address, ranges), part.address, timeout_s)
    except _RangeRefusedError:  # the partial file is longer than the server's
        part.path.unlink(missing_ok=True)
        raise
    with response:
        if response.status == 206:
            note = dataclasses.replace(note, total=_total_of_range(response, start, note, part))
        else:
            note = _note_of(part.address, response)
            part.begin(note)
        part.append(
            lambda: response.read1(CHUNK_BYTES), note.total, broken=(OSError, http.client.HTTPException)
        )


class _RangeRefusedError(BrokenTransferError):
    """The server has no such part of the file."""


def _request(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> urllib.request.Request:
    headers = {"User-Agent": "captioner", "Accept-Encoding": "identity"} | (headers or {})
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl(), headers=headers, method=method)
    if at:
        token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _open(request: urllib.request.Request, url: str, timeout_s: float):
    address = public_address(url)
    try:
        return urllib.request.build_opener(_SafeRedirects).open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            answer = f"the server answered {error.code} {error.reason}"
        if error.code == 416:
            raise _RangeRefusedError(answer) from error
        if error.code not in _WORTH_RETRYING:
            message = f"{address}: {answer}. Check the address, or give that of a mirror."
            raise DownloadError(message, missing=error.code in _MISSING) from error
        raise BrokenTransferError(answer) from error
    except DownloadError:
        raise
    except (OSError, http.client.HTTPException) as error:
        cause, reason = getattr(error, "reason", error), reason_of(error, url)
        unknown_host = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME
        if unknown_host or isinstance(cause, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"{address}: no connection ({reason}). Check the network, or give the address of a mirror."
            ) from error
        raise BrokenTransferError(f"no connection ({reason})") from error


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but neither to another scheme than http(s) nor from https to http; a password stays with its host."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        old, new = (urllib.parse.urlsplit(address) for address in (req.full_url, newurl))
        if new.scheme != "https" and new.scheme != old.scheme:
            raise DownloadError(
                f"{public_address(req.full_url)} leads to {public_address(newurl)}, which is less safe; it is not followed."
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            request.method = req.get_method()  # older Pythons make a GET of a HEAD
        if request is not None and (new.scheme, new.netloc) == (old.scheme, old.netloc):
            request.unredirected_hdrs.update(req.unredirected_hdrs)
        return request


def _total_of_range(response, start: int, note: Note, part: PartialFile) -> int:
    """The length of the whole file, from an answer that must go on where the partial file ends."""
    answer = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.strip())
    if not match or int(match[1]) != start or int(match[3]) != (note.total or int(match[3])):
        part.path.unlink(missing_ok=True)
        raise BrokenTransferError(f"the server answered with another part of the file ({answer!r})")
    return int(match[3])


def _note_of(url: str, response) -> Note:
    """What the headers of a whole answer say of the file."""
    headers, address = response.headers, public_address(url)
    if headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(
            f"{address}: the server sends the file compressed, so its length cannot be checked."
        )
    length = headers.get("Content-Length", "")
    total = int(length) if length.isascii() and length.isdigit() else None
    if total is None and headers.get("Transfer-Encoding", "").lower() != "chunked":
        raise DownloadError(
            f"{address}: the server does not say how long the file is, so a cut would pass unseen."
        )
    etag = headers.get("ETag")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    md5 = headers.get("x-ms-blob-content-md5") or headers.get("Content-MD5")
    try:
        md5 = base64.b64decode(md5, validate=True).hex() if md5 else None
    except binascii.Error:
        md5 = None
    return Note.about(url, validator=validator, total=total, md5=md5)


def _require_http(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise DownloadError(
            f"`url` must begin with https:// or http:// and name a host; received {public_address(url)!r}."
        )
