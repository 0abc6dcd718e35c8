"""What commands tell their user beside the result."""

import sys


def say(message: str) -> None:
    """Writes a line to standard error, under the program's name."""
    sys.stderr.write(f"captioner: {message}\n")
