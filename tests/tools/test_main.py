"""The command's front door: help, usage errors, exit codes, and silence."""

import os
import subprocess
import sys
import textwrap

import pytest

from tools import main as main_module
from tools.commands import COMMANDS, Command
from tools.errors import UsageError
from tools.main import load, main


@pytest.fixture
def raising(monkeypatch):
    """Makes `captioner fail` raise what the test says."""

    def prepare(error):
        def fail(settings):
            raise error

        monkeypatch.setattr(main_module, "COMMANDS", (Command(("fail",), "m", "S", "f", "Fails."),))
        monkeypatch.setattr(main_module, "load", lambda command: (object, fail))
        monkeypatch.setattr(main_module, "parse", lambda command, settings, words, default: None)

    return prepare


def run_python(code, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, **kwargs
    )


def test_help_lists_every_command_and_an_example(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(" ".join(command.words) in out for command in COMMANDS)
    assert "captioner caption photo.jpg" in out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command.words))
def test_help_of_each_command_has_an_example_of_itself(command, capsys):
    load(command)
    assert main([*command.words, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example" in out and f"captioner {' '.join(command.words)} " in out.split("Example", 1)[1]


def test_no_command_is_a_usage_error_that_shows_the_commands(capsys):
    assert main([]) == 2
    assert "caption" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["capton", "a.jpg"], "Did you mean 'caption'?"),
        (["photo.jpg"], "captioner caption FILE"),
        (["--preset", "x"], "unknown option '--preset'"),
        (["train"], "needs a second word: `train csv`"),
        (["caption", "a.jpg", "--num-beam", "3"], "--num-beams"),
        (["caption", "a.jpg", "--num-beams", "three"], "three"),
        (["caption", "a.jpg", "--num-captions", "0"], "at least 1"),
    ],
)
def test_a_wrong_call_exits_with_2_and_says_what_is_right(words, says, capsys):
    assert main(words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ValueError("`x` must be 1; received x=2."), 1, "captioner: error: `x` must be 1; received x=2.\n"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), 1, "'a.csv'"),
        (ImportError('pip install "captioner[eval]"'), 1, "captioner[eval]"),
        (UsageError("--a contradicts --b"), 2, "captioner: error: --a contradicts --b\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (SystemExit(2), 2, ""),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error, code, says, raising, capsys):
    raising(error)
    assert main(["fail"]) == code
    err = capsys.readouterr().err
    assert says in err and len(err.splitlines()) <= 1


def test_debug_shows_the_traceback(raising, capsys):
    raising(ValueError("why"))
    assert main(["--debug", "fail"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(raising):
    raising(KeyError("bug"))
    with pytest.raises(KeyError):
        main(["fail"])


def test_a_reader_that_goes_away_is_met_in_silence():
    code = """
        import sys
        from tools import main as m
        m.load = lambda command: (object, lambda settings: sys.stdout.write("x" * 10_000_000) and 0)
        m.parse = lambda *_: None
        sys.exit(m.main(["caption"]))
    """
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize("words", [["--help"], ["caption", "--help"], ["caption", "a.jpg", "--nmu"]])
def test_help_and_usage_errors_do_not_import_tensorflow(words):
    result = run_python(f"""
        import sys
        from tools.main import main
        main({words!r})
        sys.exit(any(name in sys.modules for name in ("tensorflow", "keras", "torch", "pandas")))
    """)
    assert result.returncode == 0, sorted(result.stderr)


def test_a_failing_block_shows_what_was_held_back_and_a_good_one_does_not():
    code = """
        import os
        from tools.quiet import native_stderr_held_back
        with native_stderr_held_back():
            os.write(2, b"chatter\\n")
        os.write(2, b"after\\n")
        with native_stderr_held_back():
            os.write(2, b"reason\\n")
            raise ValueError("failed")
    """
    result = run_python(code)
    assert "chatter" not in result.stderr
    assert result.stderr.startswith("after\nreason\nTraceback")


def test_tensorflow_starts_without_a_word():
    env = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    code = """
        from tools.quiet import import_tensorflow
        import_tensorflow()
        import tensorflow as tf
        tf.constant(1) + 1
    """
    result = run_python(code, env=env)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("given", [None, "false"])
def test_tensorflow_leaves_memory_of_a_gpu_to_others_unless_it_is_told_to(monkeypatch, given):
    name = "TF_FORCE_GPU_ALLOW_GROWTH"
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    assert main(["--version"]) == 0
    assert os.environ[name] == (given or "true")


def test_commands_load_where_there_are_no_posix_modules():
    code = """
        import sys
        for name in ("fcntl", "resource", "pwd", "grp", "termios"):
            sys.modules[name] = None
        from tools.commands import COMMANDS
        from tools.main import load
        for command in COMMANDS:
            load(command)
    """
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_shards_at_addresses_are_refused_where_files_cannot_be_locked(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("trainers.shards.cache_folder.fcntl", None)
    assert main(["shards", "check", "http://127.0.0.1:9/a.tar", "--cache-dir", str(tmp_path)]) == 1
    assert "needs the file locks of Linux or macOS; download them first" in capsys.readouterr().err
