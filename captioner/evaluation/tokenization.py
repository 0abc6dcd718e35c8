"""Captions as the metrics count words: lower case, Penn Treebank tokens, no punctuation."""

import re
import subprocess
from collections.abc import Sequence

from captioner.evaluation.java import Java, JavaError
from captioner.evaluation.official import official_file

# The tokens that the COCO evaluation removes. It names brackets in capitals (-LRB-), but its tokens are in
# lower case by then, so brackets stay and count as words there; here too.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

PTB = "PTB (Stanford CoreNLP 3.4.1)"
PURE_PYTHON = "pure Python (close to PTB, not identical)"


def tokenize_ptb(captions: Sequence[str], java: Java) -> list[str]:
    """Tokenises with Stanford's PTB tokenizer, as the COCO evaluation does.

    The captions go through standard input, not through a file in the package folder, so that a read-only
    installation and concurrent runs work.

    Args:
        captions: sequence of str. Any text; line breaks count as spaces.
        java: `Java`. The runtime.

    Returns:
        For each caption its words, joined by single spaces; "" where no word is left.

    Raises:
        JavaError: If the tokenizer fails or loses a line.
    """
    if not captions:
        return []
    lines = "".join(f"{_one_line(caption)}\n" for caption in captions)
    command = java.command("-cp", str(official_file("tokenizer/stanford-corenlp-3.4.1.jar")))
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    finished = subprocess.run(command, input=lines.encode("utf-8", "replace"), capture_output=True)
    # Split at "\n" alone: a token may hold any other kind of space.
    tokenized = finished.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if finished.returncode != 0 or len(tokenized) != len(captions):
        said = finished.stderr.decode("utf-8", "replace").strip()[-500:]
        raise JavaError(
            f"The PTB tokenizer gave {len(tokenized)} lines for {len(captions)} captions and exit code "
            f"{finished.returncode}, with {java.executable}. It said: {said}"
        )
    return [_without_punctuation(line.split()) for line in tokenized]


def tokenize_pure_python(captions: Sequence[str]) -> list[str]:
    """Tokenises by the Penn Treebank's main rules without Java; close to `tokenize_ptb`, not identical.

    Args:
        captions: sequence of str. Any text.

    Returns:
        For each caption its words, joined by single spaces; "" where no word is left.
    """
    return [_without_punctuation(_words(_one_line(caption))) for caption in captions]


_TOKEN = re.compile(
    r"""
    (?:https?://|www\.)\S*[^\W_]             # links
  | </?[a-z][^<>\s]*>                       # <unk> and other tags
  | [\#@][^\W\d_]\w*                       # #tag  @name
  | (?:[^\W\d_]\.){2,}                     # u.s.  e.g.
  | (?:mr|mrs|ms|dr|st|vs|jr|sr|mt|etc)\.   # abbreviations
  | o'clock | 'n'
  | \d+(?:[.,:/]\d+)+                       # 1,000  2.5  10:30  1/2
  | [^\W_]+(?:[-_/&][^\W_]+)*               # words, with inner - _ / &
  | '(?:s|re|ve|ll|d|m)\b
  | [!?]{2,} | \.{2,} | -{2,}
  | \S
    """,
    re.VERBOSE,
)
_NEGATION = re.compile(r"(?<=\w)n't\b")
_CLITIC = re.compile(r"(?<=\w)'(s|re|ve|ll|d|m)\b")
_CONTRACTION = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(gim|lem)(me)\b|\b(d')(ye)\b")
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPELLINGS = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00b4": "'", "`": "'"}
    | {"\u2013": "--", "\u2014": "--", "\u2026": "..."}
)


def _words(line: str) -> list[str]:
    line = line.lower().translate(_SPELLINGS)
    line = _NEGATION.sub(" n\u2019t ", line)
    line = _CLITIC.sub(r" '\1 ", line)
    line = _CONTRACTION.sub(lambda match: " ".join(filter(None, match.groups())), line)
    words = []
    for piece in line.split():
        words += ["n't"] if piece == "n\u2019t" else _TOKEN.findall(piece)
    return [_BRACKETS.get(word, word) for word in words if word != '"' and word.strip(".-")]


def _one_line(caption: str) -> str:
    """`caption` without any of the characters that start a new line in Python or in Java."""
    return " ".join(caption.split())


def _without_punctuation(words: list[str]) -> str:
    return " ".join(word for word in words if word not in PUNCTUATION)
