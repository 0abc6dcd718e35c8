"""Fetching a file: whatever the server does, the file is whole under its name, or absent with one line that says why."""

import base64
import hashlib
import json

import loopback
import numpy as np
import pytest

from captioner.fetch import DownloadError, fetch_file, look_up_file

DATA = np.random.default_rng(0).integers(0, 256, 1_000_003).astype("uint8").tobytes()


@pytest.fixture
def server():
    with loopback.serving({"/file": DATA}) as running:
        yield running


@pytest.fixture
def fetch(server, tmp_path):
    """Fetches into a folder, with waits that are listed instead of waited."""

    def run(path="/file", **kwargs):
        run.delays = []
        return fetch_file(
            server.address + path,
            run.path,
            sleep=run.delays.append,
            **{"timeout_s": 5.0, "num_retries": 2} | kwargs,
        )

    run.path = tmp_path / "folder" / "file"
    return run


def asked_ranges(server):
    return [headers.get("Range") for _, headers in server.requests]


def leftovers(path):
    return sorted(other.name for other in path.parent.iterdir() if other != path)


def test_a_whole_file_comes_with_its_checksums_and_progress(fetch, server):
    shown = []
    fetched = fetch(on_progress=lambda done, total: shown.append((done, total)))
    assert fetch.path.read_bytes() == DATA
    assert fetched.num_bytes == len(DATA)
    assert fetched.sha256 == hashlib.sha256(DATA).hexdigest()
    assert fetched.server_md5 == hashlib.md5(DATA).hexdigest()
    assert shown[0] == (0, len(DATA)) and shown[-1] == (len(DATA), len(DATA)) and shown == sorted(shown)
    assert leftovers(fetch.path) == []


def test_a_cut_transfer_goes_on_where_it_stopped(fetch, server):
    server.script = [loopback.answering(limit=400_000), loopback.answering(limit=1)]
    fetch()
    assert fetch.path.read_bytes() == DATA
    assert asked_ranges(server) == [None, "bytes=400000-", "bytes=400001-"]
    assert fetch.delays == [1.0, 1.0]  # each attempt brought something, so none counts against the limit


def test_a_length_that_only_the_answer_to_a_range_tells_is_checked(server, fetch):
    server.files["/file"] = DATA
    server.md5 = False

    def chunk_and_break(handler, server):
        chunked = {"Content-Length": None, "Transfer-Encoding": "chunked"}
        loopback.whole(handler, server, limit=0, headers=chunked)
        handler.wfile.write(b"%x\r\n%b\r\n" % (1000, DATA[:1000]))

    server.script = [chunk_and_break, loopback.answering(limit=5000)]
    assert fetch().num_bytes == len(DATA)
    assert fetch.path.read_bytes() == DATA
    assert asked_ranges(server) == [None, "bytes=1000-", "bytes=6000-"]


def test_the_next_call_goes_on_where_the_last_one_gave_up(fetch, server):
    server.script = [loopback.answering(limit=300_000), *[loopback.status(503)] * 2]
    with pytest.raises(
        DownloadError, match=r"in 3 attempts: .*503.*300,000 bytes are kept: the same command goes on"
    ):
        fetch()
    assert not fetch.path.exists()
    assert fetch.delays == [1.0, 2.0]
    fetch()
    assert fetch.path.read_bytes() == DATA
    assert asked_ranges(server)[-1] == "bytes=300000-"


def test_a_server_that_ignores_ranges_sends_the_file_anew(fetch, server):
    server.script = [loopback.answering(limit=300_000), loopback.answering(ranges=False)]
    fetch()
    assert fetch.path.read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_not_glued_to_its_old_half(fetch, server):
    server.script = [loopback.answering(limit=300_000), *[loopback.status(500)] * 2]
    with pytest.raises(DownloadError):
        fetch()
    server.files["/file"] = DATA[::-1]
    fetch()
    assert fetch.path.read_bytes() == DATA[::-1]


def test_without_a_sign_that_the_file_is_the_same_it_is_sent_anew(fetch, server):
    server.etag = False
    server.script = [loopback.answering(limit=300_000)]
    fetch()
    assert fetch.path.read_bytes() == DATA
    assert asked_ranges(server) == [None, None]


@pytest.mark.parametrize("start", [0, 300_001])
def test_another_range_than_was_asked_for_is_not_taken(fetch, server, start):
    server.script = [loopback.answering(limit=300_000), loopback.answering(start=start)]
    fetch()
    assert fetch.path.read_bytes() == DATA


def test_corrupt_bytes_are_fetched_anew_from_the_first(fetch, server):
    server.script = [loopback.answering(corrupt=True)]
    fetch()
    assert fetch.path.read_bytes() == DATA
    assert asked_ranges(server) == [None, None]


def test_bytes_that_stay_corrupt_are_an_error_and_leave_nothing_behind(fetch, server):
    server.script = [loopback.answering(corrupt=True)] * 3
    with pytest.raises(
        DownloadError, match=r"in 3 attempts: the bytes are corrupt: their MD5 is [0-9a-f]{32}"
    ):
        fetch()
    assert not fetch.path.exists() and not fetch.path.with_name("file.part").exists()


def test_without_a_checksum_of_the_server_none_is_claimed(fetch, server):
    server.md5 = False
    server.script = [loopback.answering(corrupt=True)]
    assert fetch().server_md5 is None


def test_a_missing_file_is_refused_at_once(fetch, server):
    with pytest.raises(DownloadError, match=r"/none: the server answered 404 Not Found\. Check the address"):
        fetch("/none")
    assert len(server.requests) == 1


def test_a_silent_server_is_given_up_and_gone_on_with(fetch, server):
    server.script = [loopback.stalled(after=200_000)]
    reasons = []
    fetch(timeout_s=0.2, on_retry=lambda reason, delay: reasons.append(reason))
    assert fetch.path.read_bytes() == DATA
    assert reasons == ["the connection broke after 200,000 bytes (the server was silent for too long)"]
    assert asked_ranges(server) == [None, "bytes=200000-"]


def test_a_file_shorter_than_the_server_says_is_never_taken(fetch, server):
    server.script = [loopback.answering(headers={"Content-Length": str(len(DATA) + 5)})] + [
        loopback.answering(headers={"Content-Length": "0"}, limit=0)
    ] * 9
    with pytest.raises(DownloadError):
        fetch()
    assert not fetch.path.exists()


@pytest.mark.parametrize("length", [None, f"{len(DATA)}, {len(DATA)}", "-1"])
def test_an_answer_without_a_length_is_refused(fetch, server, length):
    server.script = [loopback.answering(headers={"Content-Length": length})]
    with pytest.raises(DownloadError, match="does not say how long the file is"):
        fetch()


def test_a_compressed_answer_is_refused(fetch, server):
    server.script = [loopback.answering(headers={"Content-Encoding": "gzip"})]
    with pytest.raises(DownloadError, match="compressed"):
        fetch()


def test_a_redirect_is_followed_with_its_range(fetch, server):
    elsewhere = loopback.redirect(f"{server.address}/file")
    server.script = [elsewhere, loopback.answering(limit=400_000), elsewhere]
    fetch("/moved")
    assert fetch.path.read_bytes() == DATA
    assert asked_ranges(server)[-1] == "bytes=400000-"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/file"])
def test_a_redirect_to_another_kind_of_address_is_refused(fetch, server, location):
    server.script = [loopback.redirect(location)] * 9
    with pytest.raises(DownloadError):
        fetch()
    assert not fetch.path.exists() and len(server.requests) == 1


@pytest.mark.parametrize("note", [b"", b"[]", b'{"address_sha256": 3, "more": 1}', b"\xff"])
def test_a_damaged_note_beside_the_partial_file_costs_only_time(fetch, server, note):
    fetch.path.parent.mkdir()
    fetch.path.with_name("file.part").write_bytes(b"x" * 1000)
    fetch.path.with_name("file.part.json").write_bytes(note)
    fetch()
    assert fetch.path.read_bytes() == DATA


def test_a_partial_file_that_was_whole_already_only_gets_its_name(fetch, server):
    fetch.path.parent.mkdir()
    fetch.path.with_name("file.part").write_bytes(DATA)
    address_sha256 = hashlib.sha256(f"{server.address}/file".encode()).hexdigest()
    note = {"address_sha256": address_sha256, "validator": None, "total": len(DATA), "md5": None}
    fetch.path.with_name("file.part.json").write_text(json.dumps(note))
    fetch()
    assert fetch.path.read_bytes() == DATA and server.requests == []


def test_no_server_is_one_line_after_the_attempts(tmp_path):
    delays = []
    with pytest.raises(DownloadError, match=r"in 2 attempts: no connection \(.*refused") as error:
        fetch_file("http://127.0.0.1:9/file", tmp_path / "file", num_retries=1, sleep=delays.append)
    assert "\n" not in str(error.value) and delays == [1.0]


def with_password(server):
    return server.address.replace("://", "://user:p%40ss@") + "/file?signature=abc"


def test_a_password_goes_to_its_host_alone(server, tmp_path):
    server.files["/file?signature=abc"] = DATA
    with loopback.serving({"/file": DATA}) as other:
        server.script = [loopback.redirect("/file"), loopback.redirect(f"{other.address}/file")]
        fetch_file(with_password(server), tmp_path / "file")
    expected = "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert [headers.get("Authorization") for _, headers in server.requests] == [expected, expected]
    assert [headers.get("Authorization") for _, headers in other.requests] == [None]


@pytest.mark.parametrize(
    "script",
    [
        [loopback.status(404)],
        [loopback.status(503)] * 3,
        [loopback.redirect("ftp://user:p%40ss@host/?signature=abc")],
    ],
)
def test_no_message_and_no_note_shows_a_password_or_a_signature(server, tmp_path, script):
    server.script = [loopback.answering(limit=10, headers={"Content-Length": "99"}), *script]
    server.files["/file?signature=abc"] = DATA
    with pytest.raises(DownloadError) as error:
        fetch_file(with_password(server), tmp_path / "file", num_retries=2, sleep=lambda seconds: None)
    shown = str(error.value) + (tmp_path / "file.part.json").read_text()
    assert "/file?..." in shown and "ss@" not in shown and "abc" not in shown


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/file", "host/file", "https:///file"])
def test_an_address_of_another_kind_is_refused(url, tmp_path):
    with pytest.raises(DownloadError, match="`url` must begin with https"):
        fetch_file(url, tmp_path / "file")


@pytest.mark.parametrize("etag", [True, False])
def test_a_server_is_asked_of_a_file_without_its_bytes_and_tells_what_it_tells_with_them(fetch, server, etag):
    server.etag = etag
    known = look_up_file(f"{server.address}/file")
    assert (server.heads, server.requests, known.num_bytes) == (["/file"], [], len(DATA))
    assert fetch().remote == known and bool(known.validator) is etag


def test_what_was_gone_on_with_is_known_by_what_the_server_told_first(fetch, server):
    server.script = [loopback.answering(limit=300_000)]
    assert fetch().remote == look_up_file(f"{server.address}/file")


def test_another_file_under_the_same_address_is_told_from_the_first(server):
    first = look_up_file(f"{server.address}/file")
    server.files["/file"] = DATA[::-1]
    assert look_up_file(f"{server.address}/file") != first


@pytest.mark.parametrize(
    "head", [loopback.status(405), loopback.status(403), loopback.answering(headers={"Content-Length": None})]
)
def test_where_head_is_refused_a_get_is_broken_off(server, head):
    known = look_up_file(f"{server.address}/file")
    server.head = head
    assert look_up_file(f"{server.address}/file") == known
    assert len(server.heads) == 2 and [path for path, _ in server.requests] == ["/file"]


def test_head_stays_head_behind_a_redirect_and_its_password_with_its_host(server):
    with loopback.serving({"/file": DATA}) as other:
        server.head = loopback.redirect(f"{other.address}/file")
        assert look_up_file(with_password(server)).num_bytes == len(DATA)
        assert (other.heads, other.requests, server.requests) == (["/file"], [], [])


def test_a_server_that_is_busy_is_asked_again_and_one_without_the_file_is_not(server):
    delays = []
    server.ways["/file"] = loopback.status(503)
    with pytest.raises(DownloadError, match=r"/file could not be fetched in 3 attempts: .* 503"):
        look_up_file(f"{server.address}/file", num_retries=2, sleep=delays.append)
    assert delays == [1.0, 2.0]
    with pytest.raises(DownloadError, match=r"/none: the server answered 404") as error:
        look_up_file(f"{server.address}/none", sleep=None)
    assert error.value.missing
