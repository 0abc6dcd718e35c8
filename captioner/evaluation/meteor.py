"""METEOR 1.5 as a conversation with its Java program."""

import math
import re
import subprocess
import tempfile
from collections.abc import Sequence

from captioner.evaluation.java import Java, JavaError
from captioner.evaluation.official import official_file

_SEPARATOR = " ||| "


def meteor_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], java: Java
) -> tuple[float, list[float]]:
    """METEOR of tokenised captions, with the settings of the COCO evaluation (English, normalised).

    Args:
        predictions: sequence of str. One tokenised caption for each image.
        references: sequence of sequences of str. The tokenised references of each image.
        java: `Java`. The runtime.

    Returns:
        The score of all images together, and that of each image.

    Raises:
        JavaError: If the program stops or answers something that is not a score.

    References:
        - [Denkowski and Lavie, 2014](https://aclanthology.org/W14-3348/)
    """
    jar = official_file("meteor/meteor-1.5.jar")
    command = java.command("-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm")
    # A file for its messages: an unread pipe would block the program once it is full.
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command, cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages
        )
        try:
            return _converse(process, predictions, references)
        except (OSError, ValueError) as error:
            messages.seek(0)
            said = messages.read()[-500:].decode("utf-8", "replace").strip()
            raise JavaError(f"METEOR stopped, with {java.executable}: {error}. It said: {said}") from error
        finally:
            process.kill()  # It waits for input for ever otherwise; nothing of value is left in it.
            process.communicate()


def _converse(process, predictions, references) -> tuple[float, list[float]]:
    statistics = []
    for prediction, texts in zip(predictions, references, strict=True):
        parts = ["SCORE", *map(_without_separator, texts), _without_separator(prediction)]
        statistics.append(_ask(process, _SEPARATOR.join(parts)))
    answer = _ask(process, _SEPARATOR.join(["EVAL", *statistics]))
    scores = [_as_score(answer)]  # One line for each image, then one for all together.
    for _ in statistics:
        scores.append(_as_score(_read(process)))
    return scores[-1], scores[:-1]


def _ask(process, line: str) -> str:
    process.stdin.write(f"{line}\n".encode("utf-8", "replace"))
    process.stdin.flush()
    return _read(process)


def _read(process) -> str:
    answer = process.stdout.readline()
    if not answer:
        raise ValueError("it ended before it answered")
    return answer.decode("utf-8", "replace").strip()


def _as_score(answer: str) -> float:
    score = float(answer)
    return 0.0 if math.isnan(score) else score  # 0/0 for captions without words.


def _without_separator(text: str) -> str:
    return re.sub(r"\|{3,}", " ", text)
