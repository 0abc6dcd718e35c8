"""OpenAI's GPT-2 checkpoints: where they lie, fetching them, and knowing later that they are unchanged."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from captioner.fetch import FetchedFile, fetch_file, sha256_of
from captioner.files import atomic_path
from captioner.weights.assign import WeightsError

GPT2_SIZES = ("124M", "355M", "774M", "1558M")
"""Names of OpenAI's four models, by their number of parameters."""
GPT2_BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"
GPT2_FILES = (
    "checkpoint",
    "encoder.json",
    "hparams.json",
    "vocab.bpe",
    "model.ckpt.index",
    "model.ckpt.meta",
    "model.ckpt.data-00000-of-00001",
)
MANIFEST = "download.json"
"""Name of the file beside the others that holds their lengths and SHA-256."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT2Download:
    """What `download_gpt2` did."""

    folder: Path
    """Where the files lie."""
    fetched: dict[str, FetchedFile]
    """The files that were fetched now."""
    kept: tuple[str, ...]
    """The files that were there already, unchanged."""


def download_gpt2(
    size: str,
    folder: str | os.PathLike,
    *,
    base_url: str = GPT2_BASE_URL,
    timeout_s: float = 30.0,
    num_retries: int = 4,
    on_progress: Callable[[str, int, int | None], None] | None = None,
    on_retry: Callable[[str, float], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> GPT2Download:
    """Fetches the seven files of one of OpenAI's checkpoints, those that are not there unchanged.

    OpenAI publishes no checksums. A file is checked against the length and the MD5 that the server sends with it, where it
    does, and its SHA-256 is recorded, so that `require_unchanged` finds later damage.

    Args:
        size: str. One of `GPT2_SIZES`.
        folder: path. Where the files shall lie.
        base_url: address of the folder that has one folder for each size.
        timeout_s: as for `fetch_file`.
        num_retries: as for `fetch_file`.
        on_progress: called with a file's name, its bytes that are there, and their total or None.
        on_retry: as for `fetch_file`.
        sleep: as for `fetch_file`.

    Returns:
        `GPT2Download`.

    Raises:
        ValueError: If the size is unknown, or the folder holds files of another size.
        DownloadError: If a file cannot be fetched whole.
    """
    if size not in GPT2_SIZES:
        raise ValueError(f"`size` must be one of {', '.join(GPT2_SIZES)}; received {size!r}.")
    folder, address = Path(folder), f"{base_url.rstrip('/')}/{size}"
    source, known = _read_manifest(folder)
    if known and source and source.rpartition("/")[2] != size:
        raise ValueError(f"`folder` {folder} holds files of {source}; take another folder for {size}.")
    fetched, kept = {}, []
    for name in GPT2_FILES:
        if _is_unchanged(folder / name, known.get(name)):
            kept.append(name)
            continue
        fetched[name] = fetch_file(
            f"{address}/{name}",
            folder / name,
            timeout_s=timeout_s,
            num_retries=num_retries,
            on_progress=lambda done, total, name=name: on_progress and on_progress(name, done, total),
            on_retry=on_retry,
            sleep=sleep,
        )
        # After each file, so that a break costs no file that was whole.
        known[name] = dataclasses.asdict(fetched[name])
        with atomic_path(folder / MANIFEST) as path:
            path.write_text(
                json.dumps({"source": address, "files": known}, indent=2) + "\n", encoding="utf-8"
            )
    return GPT2Download(folder=folder, fetched=fetched, kept=tuple(kept))


def require_unchanged(folder: str | os.PathLike) -> bool:
    """Checks a folder's files against the record of their download.

    Args:
        folder: path. With or without a record; files from elsewhere have none.

    Returns:
        bool. Whether there is a record.

    Raises:
        WeightsError: If a file is missing or is no longer what was fetched.
    """
    folder = Path(folder)
    _, known = _read_manifest(folder)
    if damaged := [name for name, record in known.items() if not _is_unchanged(folder / name, record)]:
        raise WeightsError(
            f"{folder} is not what was downloaded: {', '.join(damaged)} differ from {MANIFEST}. Download it again, or remove "
            f"{MANIFEST} if you have changed the files on purpose."
        )
    return bool(known)


def _is_unchanged(path: Path, record: dict | None) -> bool:
    if record is None or not path.is_file() or path.stat().st_size != record["num_bytes"]:
        return False
    return sha256_of(path) == record["sha256"]


def _read_manifest(folder: Path) -> tuple[str, dict[str, dict]]:
    """The address that the files of a folder are from, and what is recorded of each; nothing without a record."""
    path = folder / MANIFEST
    if not path.is_file():
        return "", {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content.get("source", "")), {
            name: {key: record[key] for key in ("num_bytes", "sha256", "server_md5")}
            for name, record in content["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} is damaged ({error!r}). Remove it and download the files again."
        ) from error
