"""A process that leaves its training data half read ends all the same."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shards import encoded, write_shard

PATIENCE_SECONDS = 90
"""For a process that has nothing left to do, on a machine that has much."""

CHILD = """
import sys, time
sys.path.insert(0, {helpers!r})
from shards import plan_of, reader_of
from captioner.images import ImageTransform
from captioner.python_calls import whole_items
from trainers.shards.batches import decode_batches, training_batches
from trainers.shards.reader import ShardReader

read = ShardReader.read
def slowly(self, planned):  # so that other threads are within it when the process ends
    time.sleep(0.3)
    return read(self, planned)
ShardReader.read = slowly

paths = sys.argv[1:]
dataset = training_batches(
    plan_of(paths), reader_of(paths)[0], decode_batches,
    batch_size=2, transform=ImageTransform(image_size=(31, 37)), augmentation=None, num_epochs=10**6,
)
batches = iter(dataset)  # a global: it is still alive when the interpreter ends
next(batches)
print("half read", flush=True)
{then}
"""


@pytest.mark.parametrize(
    ("then", "stop"),
    [
        ("time.sleep(0.1)", None),
        ("time.sleep(0.1); raise SystemExit(0)", None),
        ("for batch in whole_items(batches): pass", signal.SIGINT),
    ],
    ids=["end of the script", "exit", "Ctrl-C"],
)
def test_a_process_with_a_half_read_iterator_ends(tmp_path, then, stop):
    picture = encoded(np.full((40, 50, 3), 90, "uint8"))
    samples = [(f"{number:04d}", picture, ["7 8"]) for number in range(9)]
    shard = write_shard(tmp_path / "00000.tar", samples)
    helpers = str(Path(sys.modules["shards"].__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(helpers=helpers, then=then), str(shard)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "half read\n", process.stderr.read()
        if stop is not None:
            process.send_signal(stop)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)  # raises if it hangs
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (0 if stop is None else -stop), said
