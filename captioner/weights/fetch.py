"""Fetches a file over HTTP: resumed after a break, checked, and either whole or absent under its name."""

import base64
import binascii
import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

_CHUNK_BYTES = 256 * 1024
_MAX_DELAY_S = 30
_WORTH_RETRYING = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(OSError):
    """Says in one line why a file could not be fetched, and what to do."""


class _BrokenTransferError(Exception):
    """A transfer that another attempt may finish."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchedFile:
    """What is known of a file that was fetched whole."""

    num_bytes: int
    """Its length, which is the one that the server named, if it named one."""
    sha256: str
    """Hexadecimal SHA-256 of what lies on the disk."""
    server_md5: str | None
    """Hexadecimal MD5 that the server gave and the file has; None if the server gave none."""


@dataclasses.dataclass(kw_only=True)
class _Note:
    """What a later attempt must know of a partial file; stored beside it."""

    url: str
    validator: str | None = None
    total: int | None = None
    md5: str | None = None


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
        url: http or https address.
        path: path. An existing file is replaced.
        timeout_s: float. Longest silence of the server, in seconds.
        num_retries: int. Further attempts after one that brought nothing new.
        on_progress: called with the bytes that are there and the total, None where the server does not say.
        on_retry: called with the reason and the seconds to wait before a further attempt.
        sleep: waits between attempts: 1, 2, 4 and so on up to 30 seconds.

    Returns:
        `FetchedFile`.

    Raises:
        DownloadError: If the server refuses, stays silent, or sends another file than it names.
        OSError: If the file cannot be written.
    """
    _require_http(url)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part, note_path = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    num_failures = 0
    while True:
        size_before = _size(part)
        try:
            _transfer(url, part, note_path, timeout_s, on_progress or (lambda done, total: None))
            fetched = _checked(part, note_path)
        except _BrokenTransferError as error:
            num_failures = 1 if _size(part) > size_before else num_failures + 1
            if num_failures > num_retries:
                kept = f" {_size(part):,} bytes are kept: the same command goes on." if _size(part) else ""
                raise DownloadError(
                    f"{url} could not be fetched in {num_failures} attempts: {error}.{kept}"
                ) from error
            delay = min(2.0 ** (num_failures - 1), _MAX_DELAY_S)
            if on_retry:
                on_retry(str(error), delay)
            sleep(delay)
            continue
        os.replace(part, path)
        note_path.unlink(missing_ok=True)
        return fetched


def sha256_of(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _transfer(url, part, note_path, timeout_s, on_progress) -> None:
    """Brings `part` to its whole length, or raises."""
    note, start = _read_note(note_path), _size(part)
    if note.url != url or (note.total is not None and start > note.total):
        start = 0
    if start and start == note.total:
        return  # whole already: the last attempt ended before the file got its name
    headers = {"User-Agent": "captioner", "Accept-Encoding": "identity"}
    if start and note.validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": note.validator}
    with _open(urllib.request.Request(url, headers=headers), part, timeout_s) as response:
        if response.status == 206:
            _require_range(response, start, note, part)
        else:
            start, note = 0, _note_of(url, response)
            part.write_bytes(b"")
            note_path.write_text(json.dumps(dataclasses.asdict(note)), encoding="utf-8")
        _append(response, part, start, note.total, on_progress)


def _append(response, part: Path, done: int, total: int | None, on_progress) -> None:
    on_progress(done, total)
    with open(part, "ab") as file:
        while True:
            try:
                chunk = response.read1(_CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenTransferError(
                    f"the connection broke after {done:,} bytes ({_reason(error)})"
                ) from error
            if not chunk:
                break
            file.write(chunk)
            done += len(chunk)
            on_progress(done, total)
    if total is not None and done != total:
        raise _BrokenTransferError(f"the connection ended after {done:,} of {total:,} bytes")


def _checked(part: Path, note_path: Path) -> FetchedFile:
    """Compares the whole file with the server's MD5; a corrupt one is removed."""
    note = _read_note(note_path)
    if note.md5 is not None:
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != note.md5:
            part.unlink()
            raise _BrokenTransferError(
                f"the bytes are corrupt: their MD5 is {found}, the server's {note.md5}"
            )
    return FetchedFile(num_bytes=_size(part), sha256=sha256_of(part), server_md5=note.md5)


def _open(request, part: Path, timeout_s: float):
    try:
        return urllib.request.build_opener(_SafeRedirects).open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            answer = f"the server answered {error.code} {error.reason}"
        if error.code == 416:  # the partial file is longer than the server's
            part.unlink(missing_ok=True)
        elif error.code not in _WORTH_RETRYING:
            raise DownloadError(
                f"{request.full_url}: {answer}. Check the address, or give that of a mirror."
            ) from error
        raise _BrokenTransferError(answer) from error
    except DownloadError:
        raise
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        unknown_host = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME
        if unknown_host or isinstance(cause, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"{request.full_url}: no connection ({_reason(error)}). Check the network, or give the address of a mirror."
            ) from error
        raise _BrokenTransferError(f"no connection ({_reason(error)})") from error


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but neither to another scheme than http(s) nor from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        old, new = (urllib.parse.urlsplit(address).scheme for address in (req.full_url, newurl))
        if new != "https" and new != old:
            raise DownloadError(f"{req.full_url} leads to {newurl}, which is less safe; it is not followed.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_range(response, start: int, note: _Note, part: Path) -> None:
    answer = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.strip())
    if not match or int(match[1]) != start or int(match[3]) != (note.total or int(match[3])):
        part.unlink(missing_ok=True)
        raise _BrokenTransferError(f"the server answered with another part of the file ({answer!r})")


def _note_of(url: str, response) -> _Note:
    """What the headers of a whole answer say of the file."""
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(f"{url}: the server sends the file compressed, so its length cannot be checked.")
    length = headers.get("Content-Length")
    if length is None and headers.get("Transfer-Encoding", "").lower() != "chunked":
        raise DownloadError(
            f"{url}: the server does not say how long the file is, so a cut would pass unseen."
        )
    etag = headers.get("ETag")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    md5 = headers.get("x-ms-blob-content-md5") or headers.get("Content-MD5")
    try:
        md5 = base64.b64decode(md5, validate=True).hex() if md5 else None
    except binascii.Error:
        md5 = None
    return _Note(url=url, validator=validator, total=None if length is None else int(length), md5=md5)


def _read_note(path: Path) -> _Note:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return _Note(**json.loads(path.read_text(encoding="utf-8")))
    return _Note(url="")


def _require_http(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise DownloadError(f"`url` must begin with https:// or http:// and name a host; received {url!r}.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "the server was silent for too long"
    return " ".join(str(cause).split()) or type(cause).__name__
