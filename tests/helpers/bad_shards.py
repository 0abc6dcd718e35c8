"""A corpus of damaged, hostile and unusual shards: each with the samples that are good and what is said of the others.

`all_kinds` gives them all; `write_kind` writes one among good samples and tells what must come out.
"""

import dataclasses
import functools
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CAPTION = b"a dog on a sofa"
THE_SHARD, THE_LAST = "", "(last)"
"""In `ShardKind.rejected`: the shard as a whole, and the last of the good samples around."""
Entry = tuple[tarfile.TarInfo, bytes]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardKind:
    """One way of being bad or unusual."""

    name: str
    """What it is."""
    build: Callable[[list[Entry], list[Entry]], bytes]
    """Makes the bytes of a tar from the good samples that come before and after."""
    good: tuple[str, ...] = ()
    """Keys of its own samples that must be good, in their order; they lie between before and after."""
    rejected: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What must be named, a key, `THE_SHARD` or `THE_LAST`, and the reason."""
    loses_all: bool = False
    """True if the good samples around it are lost with it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """What must come out of a shard."""

    good: tuple[str, ...]
    """Keys of the good samples, in their order."""
    rejected: dict[str, str]
    """What is named in the report, and the reason."""


def write_kind(kind: ShardKind, path: str | os.PathLike, num_good: int = 4) -> Expected:
    """Writes a shard of this kind with `num_good` good samples, half of them before it."""
    keys = [f"{number:09d}" for number in range(num_good)]
    half = num_good // 2
    before = [entry for key in keys[:half] for entry in good_sample(key)]
    after = [entry for key in keys[half:] for entry in good_sample(key)]
    Path(path).write_bytes(kind.build(before, after))
    name, last = os.path.basename(path), keys[-1]
    rejected = {}
    for key, reason in kind.rejected.items():
        real = last if key == THE_LAST else key
        rejected[f"{name}/{real}" if real != THE_SHARD else name] = reason
    good = () if kind.loses_all else (*keys[:half], *kind.good, *keys[half:])
    if THE_LAST in kind.rejected:
        good = good[:-1]
    return Expected(good=good, rejected=rejected)


def good_sample(key: str) -> list[Entry]:
    """A JPEG of 32 pixels, a .json with two captions and a .txt with one; each key has a picture of its own."""
    captions = [f"{CAPTION.decode()} {key}", f"another caption of {key}"]
    metadata = json.dumps({"key": key, "caption": captions[0], "captions": captions})
    return entries(
        (f"{key}.jpg", jpeg(sum(key.encode()))),
        (f"{key}.json", metadata.encode()),
        (f"{key}.txt", captions[0].encode()),
    )


def entries(*files: tuple[str, bytes]) -> list[Entry]:
    """Files by their names, as members of a tar."""
    made = []
    for name, data in files:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        made.append((member, data))
    return made


def tar(members: Sequence[Entry], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of members, with its end mark."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def sample_kind(name: str, *files: tuple[str, bytes], reason: str = "", **options) -> ShardKind:
    """A kind whose files are members among the good samples, of a sample "odd": good, or rejected for a reason."""
    format_ = options.pop("tar_format", tarfile.USTAR_FORMAT)
    options.setdefault("rejected", {"odd": reason} if reason else {})
    options.setdefault("good", () if reason else ("odd",))
    return ShardKind(
        name=name,
        build=lambda before, after: tar([*before, *entries(*files), *after], format_),
        **options,
    )


def picture(seed: int = 1, height: int = 32, width: int = 32) -> Image.Image:
    """Smooth colours, so that a JPEG of them is small."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype="uint8")
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@functools.cache
def jpeg(seed: int = 1) -> bytes:
    """A plain JPEG."""
    return encoded(picture(seed), "JPEG")


def all_kinds() -> tuple[ShardKind, ...]:
    """Every kind there is."""
    from bad_captions import CAPTION_KINDS
    from bad_images import IMAGE_KINDS
    from bad_tars import TAR_KINDS

    return (*IMAGE_KINDS, *CAPTION_KINDS, *TAR_KINDS)
