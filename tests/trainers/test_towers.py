"""A batch in two parts, each on a device of its own, against a gradient worked out by hand. B=4, G=1, T=3, V=3."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from trainers.optimization import CaptionLoss
from trainers.towers import TowerModel

ON_TWO_DEVICES = """
import collections, json
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
from trainers.optimization import CaptionLoss
from trainers.towers import TowerModel

inputs = keras.Input((1, 3, 2))
hidden = keras.layers.Dense(4, activation="tanh")(inputs)
model = TowerModel(keras.Model(inputs, keras.layers.Dense(3)(hidden)), ("CPU:0", "CPU:1"), CaptionLoss())
model.compile(keras.optimizers.SGD(1.0), loss=model.caption_loss, jit_compile=False)
batch = tf.zeros((4, 1, 3, 2)), tf.zeros((4, 1, 3), tf.int32), tf.ones((4, 1, 3))
model.train_on_batch(*batch)
step = tf.function(model.train_step, jit_compile=False).get_concrete_function(batch)
devices = collections.defaultdict(collections.Counter)
for op in step.graph.get_operations():
    devices[op.type][op.device[-5:]] += 1
print(json.dumps(devices))
"""
NUM_TOKENS = np.array([1, 0, 3, 2])  # of each image: the first part has one, the second five
WORDS = np.array([0, 0, 1, 1])  # that each image's tokens are
MASK = (np.arange(3) < NUM_TOKENS[:, None]).astype("float32")[:, None]  # (B, G, T)


def step(weight, reduction="mean_with_sample_weight"):
    """Bias, zero before, and loss after a step of plain descent at rate 1 of a model whose logits are the bias alone."""
    inputs = keras.Input((1, 3, 2))
    output = keras.layers.Dense(3, kernel_initializer="zeros")
    # One device twice: a process that has begun can have no second processor.
    model = TowerModel(
        keras.Model(inputs, output(inputs)), ("CPU:0", "CPU:0"), CaptionLoss(reduction=reduction)
    )
    model.compile(keras.optimizers.SGD(1.0), loss=model.caption_loss, jit_compile=False)
    targets = np.broadcast_to(WORDS[:, None, None], weight.shape).astype("int32")
    loss = model.train_on_batch(np.zeros((4, 1, 3, 2), "float32"), targets, weight)
    return np.array(output.bias.value), float(loss)


@pytest.mark.parametrize("reduction", ["mean_with_sample_weight", "sum"])
def test_each_token_has_the_same_say_in_whichever_part_it_is(reduction):
    average = MASK.sum() if reduction == "sum" else 1.0  # over accumulated batches it is in the weights
    bias, loss = step(MASK / average, reduction)
    np.testing.assert_allclose(bias, np.array([1 / 6, 5 / 6, 0]) - 1 / 3, rtol=1e-6)
    assert loss == pytest.approx(np.log(3))  # all words are alike before the step


def test_a_part_of_nothing_but_fillers_has_no_say():
    weight = MASK * (np.arange(4) >= 2)[:, None, None]
    bias, loss = step(weight)
    np.testing.assert_allclose(bias, np.array([0, 1, 0]) - 1 / 3, rtol=1e-6)
    assert loss == pytest.approx(np.log(3))


def test_a_batch_without_tokens_changes_nothing():
    bias, loss = step(0 * MASK)
    assert not bias.any() and loss == 0


def test_each_part_goes_forward_and_backward_on_its_own_device():
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES],
        env=os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    devices = json.loads(done.stdout.splitlines()[-1])
    # Two layers: two products forward; backward two for the kernels and one for what lies between.
    assert devices["MatMul"] == {"CPU:0": 5, "CPU:1": 5}
    assert devices["TanhGrad"] == {"CPU:0": 1, "CPU:1": 1}
