"""The `captioner` command: subcommands, their flags as dataclasses, their errors as exit codes."""

import dataclasses
import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from tools.errors import UsageError
from tools.messages import say
from tools.quiet import silence_tensorflow

DONE, SOME_FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
BROKEN_PIPE = 141  # 128 + SIGPIPE


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand: where its settings and its function are; its module is imported when it is called."""

    words: tuple[str, ...]
    module: str
    settings: str
    function: str
    summary: str


COMMANDS = (
    Command(("caption",), "tools.caption", "CaptionCommand", "caption", "Write captions for photos."),
    Command(
        ("train", "csv"),
        "tools.train",
        "TrainCsvCommand",
        "train_csv",
        "Train a captioner on a table of images.",
    ),
    Command(("compare",), "tools.compare", "CompareCommand", "compare", "Compare training runs."),
    Command(
        ("check-resume",),
        "tools.check_resume",
        "CheckResumeCommand",
        "run_check",
        "Kill a training again and again; see that nothing is lost.",
    ),
    Command(
        ("train", "webdataset"),
        "tools.train",
        "TrainWebdatasetCommand",
        "train_webdataset",
        "Train a captioner on tar shards.",
    ),
    Command(
        ("train", "--recipes"),
        "tools.recipes",
        "RecipesCommand",
        "show_recipes",
        "List named recipes: data, hardware, score.",
    ),
    Command(
        ("launch", "ray"),
        "tools.launch",
        "LaunchRayCommand",
        "launch_ray",
        "Train in processes that Ray starts and replaces.",
    ),
    Command(
        ("evaluate",),
        "tools.evaluate",
        "EvaluateCommand",
        "evaluate",
        "Score captions with the COCO metrics.",
    ),
    Command(("score",), "tools.score", "ScoreCommand", "score", "Give the probability of given captions."),
    Command(
        ("shards", "write"),
        "tools.shards",
        "ShardsWriteCommand",
        "shards_write",
        "Write images and captions as tar shards.",
    ),
    Command(
        ("shards", "index"),
        "tools.shards",
        "ShardsIndexCommand",
        "shards_index",
        "Check shards and index their good samples.",
    ),
    Command(
        ("shards", "check"),
        "tools.shards",
        "ShardsCheckCommand",
        "shards_check",
        "Tell what training would see of shards.",
    ),
    Command(
        ("shards", "missing"),
        "tools.shards",
        "ShardsMissingCommand",
        "shards_missing",
        "Tell what img2dataset could not download.",
    ),
    Command(
        ("benchmark", "decode"),
        "tools.benchmark",
        "BenchmarkDecodeCommand",
        "benchmark_decode",
        "Time decoding on this machine.",
    ),
    Command(
        ("benchmark", "train"),
        "tools.benchmark_train",
        "BenchmarkTrainCommand",
        "benchmark_train",
        "Time training on this machine.",
    ),
    Command(
        ("benchmark", "data"),
        "tools.benchmark_data",
        "BenchmarkDataCommand",
        "benchmark_data",
        "Time the reading of training data on this machine.",
    ),
    Command(
        ("download", "gpt2"),
        "tools.download",
        "DownloadGPT2Command",
        "download",
        "Fetch OpenAI's GPT-2 checkpoints.",
    ),
    Command(
        ("convert", "openai"),
        "tools.convert",
        "ConvertOpenaiCommand",
        "convert_openai",
        "Make a preset of OpenAI's GPT-2.",
    ),
    Command(
        ("convert", "huggingface"),
        "tools.convert",
        "ConvertHuggingFaceCommand",
        "convert_huggingface",
        "Make a preset of a Hugging Face GPT-2 or captioner.",
    ),
    Command(
        ("convert", "--to", "huggingface"),
        "tools.convert",
        "ConvertToHuggingFaceCommand",
        "convert_to_huggingface",
        "Write a captioner's GPT-2 for transformers.",
    ),
    Command(("doctor",), "tools.doctor", "DoctorCommand", "doctor", "Say what this machine has and lacks."),
)

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
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name may hold bytes that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # the flag parser's, with help or a usage error already written
        return stop.code if isinstance(stop.code, int) else USAGE
    except KeyboardInterrupt:
        say("stopped by Ctrl-C; what was finished is kept.")
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
    if words[0] != "train" or not {"--config", "--recipe"} & set(words[:-1]):
        return words, None
    from tools.run_config import settings_from_config, take_config

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
