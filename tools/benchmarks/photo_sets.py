"""Sets of photos that the data benchmark reads: JPEGs of a given size, and shards of them with indexes."""

import os
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

QUALITY = 90
"""Of JPEGs, 1 to 95, as Pillow counts it."""
CAPTIONS_PER_IMAGE = 5
_WORDS = re.findall(
    r"\w+",
    "a the two young old brown black white small large dog cat man woman child horse boat street beach field snow "
    "grass water runs stands jumps sits looks plays with in on over near behind ball hat bicycle window tree",
)


def write_photos(
    folder: Path, photos: str, *, num_images: int, size: tuple[int, int], quality: int = QUALITY
) -> list[str]:
    """Writes JPEGs, crops of photos brought to a size; they compress as enlarged photos do.

    Args:
        folder: where to.
        photos: folder of JPEGs to cut from.
        num_images: how many.
        size: width and height in px.
        quality: of the JPEGs.

    Returns:
        Their paths.
    """
    chance = random.Random(0)
    sources = [Image.open(path).convert("RGB") for path in sorted(Path(photos).glob("*.jpg"))]
    folder.mkdir(parents=True)
    paths = []
    for number in range(num_images):
        source = sources[number % len(sources)]
        side = min(source.width / size[0], source.height / size[1]) * chance.uniform(0.6, 1.0)
        width, height = side * size[0], side * size[1]
        left, top = chance.uniform(0, source.width - width), chance.uniform(0, source.height - height)
        box = (left, top, left + width, top + height)
        paths.append(str(folder / f"{number:06d}.jpg"))
        resized = source.resize(size, Image.Resampling.LANCZOS, box)
        resized.save(paths[-1], quality=quality)
    return paths


def captions(number: int) -> tuple[str, ...]:
    """Made-up captions of an image, about ten words each."""
    chance = random.Random(number)
    return tuple(" ".join(chance.choices(_WORDS, k=chance.randint(8, 12))) for _ in range(CAPTIONS_PER_IMAGE))


def write_indexed_shards(folder: Path, paths: Sequence[str], *, samples_per_shard: int) -> list[str]:
    """Writes shards of images with captions, and their indexes; gives their paths."""
    from trainers.records import CaptionedImage
    from trainers.shards.build_index import build_indexes
    from trainers.shards.write import ShardLayout, write_shards

    images = [CaptionedImage(path=Path(path), captions=captions(number)) for number, path in enumerate(paths)]
    layout = ShardLayout(samples_per_shard=samples_per_shard)
    write_shards(images, folder, layout, progress=False)
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    build_indexes(shards, num_processes=1, progress=False)
    return shards


def repeat_shard(shard: str, folder: Path, num_shards: int) -> None:
    """Fills a folder with a shard under many names, each with an index of its own; the tar takes its place once."""
    from trainers.shards.index import index_path

    folder.mkdir(parents=True)
    for number in range(num_shards):
        path = folder / f"{number:05d}.tar"
        os.link(shard, path)
        shutil.copyfile(index_path(shard), index_path(path))


def bits_per_pixel(paths: Sequence[str], size: tuple[int, int]) -> float:
    """Mean bits that a pixel takes."""
    return 8 * sum(os.path.getsize(path) for path in paths) / (len(paths) * size[0] * size[1])
