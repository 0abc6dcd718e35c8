"""The `captioner` command: the flags of its subcommands are dataclasses, their errors exit codes."""

import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from tools.commands import COMMANDS, Command
from tools.errors import UsageError
from tools.messages import say
from tools.quiet import silence_tensorflow

DONE, SOME_FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
BROKEN_PIPE = 141  # 128 + SIGPIPE


HELP = """\
usage: captioner [--debug] COMMAND ...

Writes captions for images, and trains models that do.

commands:
{commands}

options:
  -h, --help   show this help; after a command, its flags and an example
  --version    show the version
  --debug      show the whole traceback of an error

example:
  captioner caption photo.jpg

exit codes: 0 all done, 1 some inputs or the task failed, 2 the command was called wrongly.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Args:
        argv: list of strings. The words after `captioner`; those of the process by default.

    Returns:
        int. 0 all done, 1 some inputs or the task failed, 2 wrong usage, 130 after Ctrl-C, 141 when the
        reader of the output went away.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = bool(words) and words[0] == "--debug"
    if debug:
        words.pop(0)
    silence_tensorflow()
    # Before TensorFlow is imported: DALI and JAX need a GPU's memory too.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name may hold bytes that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    if hasattr(sys.stdin, "reconfigure"):  # and so may a list of them
        sys.stdin.reconfigure(errors="surrogateescape")
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # the flag parser's, with help or a usage error already written
        return stop.code if isinstance(stop.code, int) else USAGE
    except KeyboardInterrupt:
        say("stopped by Ctrl-C.")
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more at its exit, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ValueError, OSError, ImportError) as error:
        if debug:
            traceback.print_exc()
        else:
            say(f"error: {error}")
        return USAGE if isinstance(error, UsageError) else SOME_FAILED


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        (sys.stdout if words else sys.stderr).write(_help())
        return DONE if words else USAGE
    if words[0] == "--version":
        sys.stdout.write(f"captioner {_version()}\n")
        return DONE
    words, default = _with_config(words)
    command = _find(words)
    settings, function = load(command)
    return function(parse(command, settings, words[len(command.words) :], default))


def load(command: Command) -> tuple[type, Callable[[Any], int]]:
    """Imports a command's module; returns its settings dataclass and its function."""
    module = importlib.import_module(command.module)
    return getattr(module, command.settings), getattr(module, command.function)


def parse(command: Command, settings: type, words: Sequence[str], default: Any = None) -> Any:
    """A command's settings from its flags, and from `default` where a flag is not given. Leaves by `SystemExit` after help
    (0) or a wrong flag (2)."""
    import tyro

    from tools.setting_flags import FLAGS

    return tyro.cli(
        settings,
        default=default,
        prog=" ".join(("captioner", *command.words)),
        description=inspect.cleandoc(settings.__doc__ or ""),
        args=list(words),
        registry=FLAGS,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff, tyro.conf.DisallowNone),
    )


def _with_config(words: list[str]) -> tuple[list[str], Any]:
    """For `train --config FILE` and `train --recipe NAME`: the words without it and with the trainer that it is for, and its
    settings."""
    if words[0] != "train":
        return words, None
    from tools.run_config import FROM_A_FILE, settings_from_config, take_config

    starts = tuple(f"{flag}=" for flag in FROM_A_FILE)
    words = [part for word in words for part in (word.split("=", 1) if word.startswith(starts) else [word])]
    if not set(FROM_A_FILE) & set(words):
        return words, None
    words, values, source, needs = take_config(words)
    settings, _ = load(_find(words))
    return words, settings_from_config(settings, values, source, flags_for=needs)


def _find(words: list[str]) -> Command:
    for command in COMMANDS:
        if tuple(words[: len(command.words)]) == command.words:
            return command
    group = [" ".join(command.words) for command in COMMANDS if command.words[0] == words[0]]
    if group:  # `captioner train` without saying what to train on
        if words[1:2] in (["-h"], ["--help"]):
            sys.stdout.write(_help())
            raise SystemExit(DONE)
        raise UsageError(f"`{words[0]}` needs a second word: {_listed(group)}. See `captioner --help`.")
    names = [" ".join(command.words) for command in COMMANDS]
    if words[0].startswith("-"):
        raise UsageError(f"unknown option {words[0]!r} before a command; commands are {_listed(names)}.")
    near = difflib.get_close_matches(words[0], names, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else " To caption a file: `captioner caption FILE`."
    raise UsageError(f"unknown command {words[0]!r}; commands are {_listed(names)}.{meant}")


def _help() -> str:
    lines = (f"  {' '.join(command.words):<22} {command.summary}" for command in COMMANDS)
    return HELP.format(commands="\n".join(lines))


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("captioner")
    except metadata.PackageNotFoundError:
        return "(not installed: run from a checkout)"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.exit(main())
