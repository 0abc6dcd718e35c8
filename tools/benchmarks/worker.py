"""A process that measures when asked: JSON lines on its standard input and output.

Each configuration has a process of its own, so that its peak memory is its own; ours and another library's can
take turns, so that both meet the same disturbances of a shared machine.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """The asking side.

    Args:
        python: path of the interpreter.
        module: name of a module whose `__main__` calls `serve`.
        configuration: what the worker is to measure; JSON values.

    Raises:
        ChildProcessError: If the process ends without an answer; with what it said last.
    """

    def __init__(self, python: str, module: str, configuration: dict):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._name = f"{module} {json.dumps(configuration)}"
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps(configuration)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            text=True,
        )
        try:
            self.about = self._answer()
        except BaseException:
            self.close()
            raise

    def measure(self) -> dict:
        """One more measurement."""
        try:
            self._process.stdin.write("measure\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `_answer` says why it has ended
        return self._answer()

    def close(self) -> None:
        # What was asked of a process that had ended is flushed again.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._errors.seek(0)
        said = self._errors.read()[-1000:].decode("utf-8", "replace").strip()
        raise ChildProcessError(
            f"the worker {self._name} ended without an answer: {said or 'it said nothing'}"
        )


def serve(start: Callable[[dict], tuple[dict, Callable[[], dict]]]) -> None:
    """The answering side: measures once to warm up, then once for each line of standard input.

    Args:
        start: function from the configuration to what is to be said about it, and a function that measures.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    about, measure = start(json.loads(sys.argv[1]))
    measure()
    print(json.dumps(about), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure() | {"peak_mb": peak_memory_mb()}), file=answers, flush=True)


def timed(function: Callable) -> tuple:
    """What a function returns, and the seconds it took."""
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def timed_step(step: Callable) -> dict:
    """Seconds of a training step: by the clock, and the processor's, of all threads, which other programs hardly change."""
    processor_started = time.process_time()
    _, seconds = timed(step)
    return {"step_seconds": seconds, "processor_seconds": time.process_time() - processor_started}


def peak_memory_mb() -> float:
    """Most memory that this process has held, in MB of 10^6 bytes."""
    try:
        # Not ru_maxrss, which a process inherits from the one that started it.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
