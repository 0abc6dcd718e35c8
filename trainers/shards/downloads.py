"""What img2dataset could not download, by what it writes beside each shard."""

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from captioner.files import atomic_path

_NUMBERS_OF_BYTES = re.compile(r"\d+(?= bytes| more)")
_OWN_COLUMNS = frozenset(
    ("key", "status", "error_message", "width", "height", "original_width", "original_height", "exif")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Downloads:
    """What became of the addresses of a list."""

    num_urls: int
    """Addresses that were tried."""
    num_succeeded: int
    """Images in the shards."""
    errors: dict[str, int]
    """Failed addresses by error message, the most frequent first; numbers of bytes are left out."""
    unfinished: tuple[str, ...]
    """Shards without a `_stats.json`, which is written last; their addresses are not counted."""


def read_downloads(shards: Sequence[str]) -> Downloads:
    """Adds up the `_stats.json` beside each shard.

    Args:
        shards: paths of tars.
    """
    num_urls, num_succeeded, unfinished = 0, 0, []
    errors: Counter[str] = Counter()
    for shard in shards:
        try:
            stats = json.loads(_beside(shard, "_stats.json").read_text(encoding="utf-8"))
            count, successes = int(stats["count"]), int(stats["successes"])
            found = _errors(stats)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            unfinished.append(shard)
            continue
        num_urls, num_succeeded = num_urls + count, num_succeeded + successes
        errors.update(found)
    return Downloads(
        num_urls=num_urls,
        num_succeeded=num_succeeded,
        errors=dict(errors.most_common()),
        unfinished=tuple(unfinished),
    )


def write_missing(path: str | os.PathLike, shards: Sequence[str]) -> int:
    """Writes the rows that failed as a list for img2dataset, from the `.parquet` beside each shard.

    Args:
        path: path of the list, a Parquet file with the columns of the first list, of which img2dataset calls two `url` and
            `caption`.
        shards: paths of tars.

    Returns:
        Number of rows. Without any, nothing is written.

    Raises:
        ImportError: If pyarrow is not installed.
        OSError: If a table is missing or damaged, or the list cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.compute as compute
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(
            'the tables beside the shards need pyarrow: pip install pyarrow, or pip install "captioner[data]".'
        ) from error
    missing = []
    for shard in shards:
        table_path = _beside(shard, ".parquet")
        try:
            table = parquet.read_table(table_path)
            failed = table.filter(compute.not_equal(table["status"], "success"))
            missing.append(failed.drop_columns([name for name in failed.column_names if _is_added(name)]))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{table_path} is not there. img2dataset writes it when a shard is finished: run the same command again, or "
                "leave this shard out."
            ) from None
        except (pa.ArrowException, KeyError) as error:
            raise OSError(f"{table_path} is not a whole table of img2dataset: {error}") from error
    table = pa.concat_tables(missing, promote_options="permissive")
    if table.num_rows:
        with atomic_path(path) as temporary:
            parquet.write_table(table, temporary)
    return table.num_rows


def _errors(stats: dict) -> Counter[str]:
    if "status_dict" not in stats:  # written by `captioner shards write`
        return Counter(problem["reason"] for problem in stats.get("problems", ()))
    errors: Counter[str] = Counter()
    for message, count in stats["status_dict"].items():
        if message != "success":
            errors[_NUMBERS_OF_BYTES.sub("N", message)] += int(count)
    return errors


def _beside(shard: str, ending: str) -> Path:
    path = Path(shard)
    return path.with_name(path.stem + ending)


def _is_added(column: str) -> bool:
    return column in _OWN_COLUMNS or column in ("sha256", "sha512", "md5")
