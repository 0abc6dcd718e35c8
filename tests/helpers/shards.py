"""Small indexed shards of given images and captions."""

import csv
import io
import json
import os
import tarfile

import tensorflow as tf
from PIL import Image

from captioner.images import Augmentation, ImageTransform
from trainers.shards.batches import training_batches
from trainers.shards.build_index import build_indexes
from trainers.shards.engines import find_engine
from trainers.shards.index import index_path, read_index, read_summary
from trainers.shards.open_shards import OpenShards
from trainers.shards.plan import ShardPlan, Source
from trainers.shards.read_problems import ReadProblems
from trainers.shards.reader import CaptionTokens, ShardReader


class NumberTokenizer:
    """Gives each word the number that it is."""

    start_token_id, end_token_id, pad_token_id = 1, 2, 0

    def encode_batch(self, texts):
        return [[int(word) for word in text.split()] for text in texts]


class BlindTokenizer(NumberTokenizer):
    """Gives each caption one and the same token, whatever it says."""

    def encode_batch(self, texts):
        return [[5] for _ in texts]


def encoded(pixels, kind="JPEG", **options) -> bytes:
    """A file of an image `(H, W, 3)`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def write_shard(path, samples, index=True) -> str:
    """Writes `(key, image file, captions)` as a tar, and its index."""
    with tarfile.open(path, "w") as tar:
        for key, data, captions in samples:
            for name, content in (
                (f"{key}.jpg", data),
                (f"{key}.json", json.dumps({"captions": captions}).encode()),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    if index:
        build_indexes([str(path)], num_processes=1, progress=False)
    return str(path)


def overwrite_image(shard, row):
    """Makes an image undecodable so that only who decodes it finds out: the shard looks as it was indexed."""
    index, status = read_index(index_path(shard)), os.stat(shard)
    with open(shard, "r+b") as file:
        file.seek(int(index.image_offset[row]))
        file.write(bytes(int(index.image_size[row])))
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))


def samples_of(photos):
    """Key, file and captions of each photo of the table."""
    captions = {}
    with open(photos / "captions.csv", newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["image"], []).append(row["caption"])
    return [(name[:-4], (photos / name).read_bytes(), texts) for name, texts in captions.items()]


def open_all(shards, max_indexes=8) -> OpenShards:
    """The shards, opened."""
    return OpenShards(shards, [read_summary(index_path(shard)) for shard in shards], max_indexes)


def reader_of(
    shards, captions_per_image=2, max_length=5, tokenizer=None, **changes
) -> tuple[ShardReader, list]:
    """A reader of all shards, and the list that its problems are written to."""
    written = []
    tokens = CaptionTokens(
        tokenizer=tokenizer or NumberTokenizer(),
        captions_per_image=captions_per_image,
        max_length=max_length,
        **changes,
    )
    return ShardReader(shards=open_all(shards), tokens=tokens, problems=ReadProblems(written.append)), written


def plan_of(shards, **changes) -> ShardPlan:
    """A plan of one source."""
    counts = tuple(read_summary(index_path(shard)).num_samples for shard in shards)
    given = {"sources": (Source(num_samples=counts),), "seed": 0, "shuffle_buffer": 8} | changes
    return ShardPlan(**given)


def augmented_epoch(shards, engine, batch_size) -> tuple[ShardReader, tf.data.Dataset]:
    """A reader of all shards, and batches of augmented images, one epoch of them, that an engine decodes."""
    reader, _ = reader_of(shards, tokenizer=BlindTokenizer())
    dataset = training_batches(
        plan_of(shards),
        reader,
        find_engine(engine)[1],
        batch_size=batch_size,
        transform=ImageTransform(image_size=(24, 20)),
        augmentation=Augmentation(min_crop_area=0.5, horizontal_flip=True),
        num_epochs=1,
    )
    return reader, dataset
