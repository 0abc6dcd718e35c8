"""`captioner download gpt2`: fetches OpenAI's checkpoints into the cache folder."""

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import tyro

from tools.errors import UsageError
from tools.messages import say

CACHE_VARIABLE = "CAPTIONER_CACHE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownloadGPT2Command:
    """Fetches OpenAI's files of a GPT-2 (0.5, 1.4, 3.1 or 6.2 GB); the same command goes on after a break.

    They go to gpt2/SIZE in the cache folder: ~/.cache/captioner, or what CAPTIONER_CACHE names.

    Examples:
        captioner download gpt2 124M

        CAPTIONER_CACHE=/data/cache captioner download gpt2 355M

        captioner download gpt2 124M --base-url https://mirror.example/gpt-2/models
    """

    size: tyro.conf.Positional[Literal["124M", "355M", "774M", "1558M"]]
    """The model, by its number of parameters."""
    output: Path | None = None
    """Folder for the files; gpt2/SIZE in the cache folder if not given."""
    base_url: str | None = None
    """Address of a mirror's folder that has one folder for each size; OpenAI's if not given."""
    timeout: float = 30.0
    """Longest silence of the server, in seconds."""
    num_retries: int = 4
    """Further attempts after one that brought nothing new."""

    def __post_init__(self) -> None:
        if self.base_url and not self.base_url.startswith(("https://", "http://")):
            raise UsageError(f"--base-url must begin with https:// or http://; received {self.base_url!r}.")
        if not 0 < self.timeout < float("inf"):
            raise UsageError(f"--timeout must be above 0 seconds; received {self.timeout}.")
        if self.num_retries < 0:
            raise UsageError(f"--num-retries must be at least 0; received {self.num_retries}.")


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The folder for what is downloaded: `CAPTIONER_CACHE`, or `~/.cache/captioner`."""
    moved = environment.get(CACHE_VARIABLE)
    return Path(moved).expanduser() if moved else Path.home() / ".cache" / "captioner"


def download(command: DownloadGPT2Command) -> int:
    """Runs the command; returns 0."""
    from tools.quiet import import_tensorflow

    import_tensorflow()
    from captioner.weights.gpt2_download import GPT2_BASE_URL, download_gpt2

    folder = command.output or cache_folder(os.environ) / "gpt2" / command.size
    bars = _Bars()
    try:
        result = download_gpt2(
            command.size,
            folder,
            base_url=command.base_url or GPT2_BASE_URL,
            timeout_s=command.timeout,
            num_retries=command.num_retries,
            on_progress=bars.show,
            on_retry=lambda reason, delay: bars.say(f"{reason}; trying again in {delay:.0f} s"),
        )
    finally:
        bars.close()
    unchecked = [name for name, file in result.fetched.items() if file.server_md5 is None]
    if unchecked:
        say(f"the server names no checksum of {', '.join(unchecked)}: only the length was checked")
    if result.kept:
        say(f"{len(result.kept)} files were there already, unchanged")
    sys.stdout.write(f"{result.folder}\n")
    return 0


class _Bars:
    """One progress bar for each file, on a terminal only."""

    def __init__(self):
        self._bar, self._name = None, None

    def show(self, name: str, done: int, total: int | None) -> None:
        from tqdm import tqdm

        if name != self._name:
            self.close()
            self._name = name
            self._bar = tqdm(
                desc=name, unit="B", unit_scale=True, unit_divisor=1024, disable=None, file=sys.stderr
            )
            self._bar.initial = done  # what was there before counts as done, not as speed
        self._bar.total = total
        if done < self._bar.n:  # the server began anew
            self._bar.n = self._bar.initial = done
        self._bar.update(done - self._bar.n)

    def say(self, message: str) -> None:
        from tqdm import tqdm

        tqdm.write(f"captioner: {message}", file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
