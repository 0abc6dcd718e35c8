"""`captioner shards write`: images and captions become tar shards."""

import dataclasses
import sys
from pathlib import Path

from tools.errors import UsageError
from tools.messages import say
from trainers.shards.write import ShardLayout

_NOTES_SHOWN = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsWriteCommand(ShardLayout):
    """Writes images and captions as shuffled tar shards, in the layout of img2dataset and webdataset.

    The bytes of the images stay as they are; each is decoded once, and one that cannot be is left out and named. All
    captions of an image are in its .json, the first one in its .txt. The same command goes on after a break.

    Examples:
        captioner shards write --csv train.csv --images photos/ --output shards/

        captioner shards write --csv dataset_coco.json --images coco/ --split train --output shards/ --max-shard-mb 500

        captioner shards write --images folder_with_txt_beside_each/ --output shards/
    """

    output: Path
    """Folder for the shards."""
    csv: Path | None = None
    """Table: CSV, TSV, JSON lines, COCO or Karpathy's JSON. Without it each image needs a .txt, one caption a line."""
    images: Path | None = None
    """Folder that the table's image names start from, by default its own; or the folder of images with their .txt."""
    image_column: str | None = None
    """The table's column of image names; guessed from common names by default."""
    caption_column: str | None = None
    """The table's column of captions; guessed from common names by default."""
    split: str | None = None
    """Only this split of the table, for tables that have splits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.csv is None and self.images is None:
            raise UsageError("give --csv TABLE, or --images FOLDER whose images have a .txt beside them.")
        of_tables = {
            "image_column": self.image_column,
            "caption_column": self.caption_column,
            "split": self.split,
        }
        if self.csv is None and (given := next((name for name, value in of_tables.items() if value), None)):
            raise UsageError(f"--{given.replace('_', '-')} is for tables, and no --csv is given.")


def shards_write(command: ShardsWriteCommand) -> int:
    """Runs the command; returns 0, or 1 if more than repeated captions was left out."""
    from trainers.caption_folder import read_folder
    from trainers.caption_tables import read_captions
    from trainers.shards.write import write_shards

    if command.csv is None:
        records = read_folder(command.images)
    else:
        records = read_captions(
            command.csv,
            command.images,
            image_column=command.image_column,
            caption_column=command.caption_column,
            split=command.split,
        )
    layout = ShardLayout(
        **{field.name: getattr(command, field.name) for field in dataclasses.fields(ShardLayout)}
    )
    root = command.images or command.csv.parent
    written = write_shards(records.images, command.output, layout, root=root, progress=sys.stderr.isatty())
    kept = f" ({written.num_kept:,} were there already)" if written.num_kept else ""
    problems = (*records.problems, *written.problems)
    for problem in problems[:_NOTES_SHOWN]:
        say(f"left out: {problem}")
    if len(problems) > _NOTES_SHOWN:
        say(f"and {len(problems) - _NOTES_SHOWN:,} more; images are named in {command.output}/*_stats.json")
    print(
        f"{written.num_shards:,} shards{kept} in {command.output}: {written.num_samples:,} images with "
        f"{written.num_captions:,} captions, {written.num_bytes / 1e6:,.1f} MB"
    )
    print(f"Index them: captioner shards index {command.output}")
    return 1 if any(problem.reason != "duplicate row" for problem in problems) else 0
