"""The asking side of a benchmark's worker, when the answering side ends."""

import sys

import pytest

from tools.benchmarks.worker import Worker


@pytest.fixture
def python(tmp_path):
    """An interpreter that answers once, and ends."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\necho '{}'\necho out of luck >&2\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="a script of the shell")
def test_a_worker_that_has_ended_says_why(python):
    with (
        pytest.raises(ChildProcessError, match=r"some\.module .* ended without an answer: out of luck"),
        Worker(python, "some.module", {}) as worker,
    ):
        worker._process.wait()
        worker.measure()
