"""Rates and weight decays of parts, against AdamW written out in NumPy."""

import collections
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from part_updates import updates

from captioner.model.parts import variables_of_parts
from trainers.loop import compiled_model
from trainers.part_optimizer import PartAdamW

ROOT = Path(__file__).parents[2]
RATE, STEPS = 0.2, 6
GRADIENTS = np.random.default_rng(0).normal(0, 2, (STEPS, 2, 2))
BASE = {"learning_rate": RATE, "warmup_fraction": 0.0, "final_learning_rate_fraction": 0.5}
PARTS = {"rate_scales": {"image_encoder": 0.1}, "weight_decay": 0.3, "weight_decays": {"image_encoder": 0.05}}
CASES = {
    "plain": {"clip_norm": 100.0},
    "any norm": {"clip_norm": 0.0},
    "clipped": {"clip_norm": 1.5},
    "averaged": {"clip_norm": 1.5, "ema_momentum": 0.8},
    "accumulated": {"clip_norm": 1.5, "gradient_accumulation_steps": 3, "ema_momentum": 0.8},
    "scaled": {"clip_norm": 1.5, "dtype": "mixed_float16", "ema_momentum": 0.8},
}


def by_hand(changes, scales=(0.1, 1.0), decays=(0.05, 0.3)):
    """The values of both weights after each step, and their moving averages."""
    every = changes.get("gradient_accumulation_steps", 1)
    momentum = changes.get("ema_momentum", 0.0) ** (1 / every)
    weights, m, v = np.ones((2, 2)), np.zeros((2, 2)), np.zeros((2, 2))
    waiting, average, values, averages = np.zeros((2, 2)), np.zeros((2, 2)), [], []
    for step, gradient in enumerate(GRADIENTS):
        waiting = waiting + gradient
        if (step + 1) % every == 0:
            update, mean, waiting = (step + 1) // every, waiting / every, np.zeros((2, 2))
            norm = np.sqrt((mean**2).sum())  # of both weights together
            mean = mean * min(1, (changes["clip_norm"] or np.inf) / norm)
            m, v = 0.9 * m + 0.1 * mean, 0.98 * v + 0.02 * mean**2
            rate = RATE * (0.5 + 0.5 * 0.5 * (1 + np.cos(np.pi * step / STEPS)))
            for part in range(2):
                adam = (m[part] / (1 - 0.9**update)) / (np.sqrt(v[part] / (1 - 0.98**update)) + 1e-7)
                weights[part] -= scales[part] * rate * (decays[part] * weights[part] + adam)
        average = momentum * average + (1 - momentum) * weights if step >= every else weights.copy()
        values.append(weights.copy())
        averages.append(average)
    return values, averages


@pytest.mark.parametrize("case", CASES)
def test_a_part_has_the_updates_of_its_own_rate_and_decay(case):
    values, averages = updates(BASE | PARTS | CASES[case], GRADIENTS)
    expected, expected_averages = by_hand(CASES[case])
    np.testing.assert_allclose(values, expected, rtol=2e-5)
    if averages:
        np.testing.assert_allclose(averages, expected_averages, rtol=2e-5)


def test_without_numbers_of_parts_all_are_alike():
    changes = BASE | CASES["clipped"] | {"weight_decay": 0.3}
    np.testing.assert_allclose(
        updates(changes, GRADIENTS)[0], by_hand(CASES["clipped"], (1.0, 1.0), (0.3, 0.3))[0], rtol=2e-5
    )


def step_graph(names, **changes):
    """The operations of an update of weights with these names."""
    import keras
    import tensorflow as tf

    weights = [keras.Variable(np.ones(3, "float32"), name=name) for name in names]
    optimizer = PartAdamW(
        0.1, rate_scale=lambda variable: 1.0, weight_decay_of=lambda variable: 0.1, **changes
    )
    optimizer.build(weights)
    step = tf.function(lambda *gradients: optimizer.apply(gradients, weights))
    return step.get_concrete_function(*[tf.zeros(3)] * len(names)).graph.get_operations()


def needed_by(operation):
    """What an operation waits for, directly or not."""
    found, waiting = set(), [operation]
    while waiting:
        operation = waiting.pop()
        for other in [tensor.op for tensor in operation.inputs] + list(operation.control_inputs):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


def test_a_weight_decays_when_its_gradient_is_there_and_the_weight_behind_is_done():
    """Else TensorFlow holds the decays of all weights, as large as the model, from the start of a step."""
    operations = step_graph(["first", "second"])
    decays = [op.inputs[1].op for op in operations if op.type == "AssignSubVariableOp"]
    read = [decay.inputs[1].op for decay in decays]  # what a weight is when it decays
    updates = [op for op in operations if op.type == "ResourceApplyAdam"]
    first, second = [op for op in operations if op.type == "Placeholder"][:2]
    assert second in needed_by(read[0]) and first in needed_by(read[1])
    assert updates[0] in needed_by(read[1]) and updates[1] not in needed_by(read[0])


@pytest.mark.parametrize(("changes", "is_held"), [({}, False), ({"global_clipnorm": 1.0}, True)])
def test_without_a_norm_a_gradient_is_used_before_the_others_are_there(changes, is_held):
    """Gradients come from the last weight to the first; those that are used are held no longer."""
    operations = step_graph(["first", "second", "third"], **changes)
    first, second, third = [op for op in operations if op.type == "Placeholder"][:3]
    updates = [op for op in operations if op.type == "ResourceApplyAdam"]
    assert [third in needed_by(update) for update in updates] == [True, True, True]
    assert [second in needed_by(update) for update in updates] == [is_held, True, True]
    assert [first in needed_by(update) for update in updates] == [is_held, is_held, True]


def test_weights_share_the_numbers_of_a_step_and_a_norm_is_one_operation():
    """Else they are a fifth of what TensorFlow traces before the first step."""
    few, many = (
        collections.Counter(op.type for op in step_graph(names, global_clipnorm=1.0))
        for names in (["first", "second"], list("abcdefgh"))
    )
    assert many["ResourceApplyAdam"] == 8
    assert many["Pow"] == few["Pow"] == 2 and many["Const"] == few["Const"]
    assert many["Square"] == 0 and many["L2Loss"] == 8


@pytest.mark.oracle
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")
def test_jax_has_the_same_updates():
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")]),
    }
    cases = {name: BASE | PARTS | changes for name, changes in CASES.items()}
    result = subprocess.run(
        [sys.executable, "-m", "part_updates"], input=json.dumps([cases, GRADIENTS.tolist()]),
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for name, (values, averages) in json.loads(result.stdout).items():
        expected, expected_averages = by_hand(CASES[name])
        np.testing.assert_allclose(values, expected, rtol=2e-5, err_msg=name)
        if averages:
            np.testing.assert_allclose(averages, expected_averages, rtol=2e-5, err_msg=name)


def test_every_weight_of_a_captioner_is_of_one_part(tiny_captioner):
    backbone = tiny_captioner().backbone
    parts = variables_of_parts(backbone)
    ids = [id(variable) for variables in parts.values() for variable in variables]
    assert len(ids) == len(set(ids)) and set(ids) == {id(variable) for variable in backbone.variables}
    for part in parts:  # as they are frozen and trained
        backbone.set_trainable_parts([part])
        trained = {v.path for v in backbone.trainable_variables}
        assert {v.path for v in parts[part] if v.trainable} <= trained
        assert trained - {v.path for v in parts[part]} <= {"decoder/token_embedding/special_embeddings"}


def test_the_model_that_is_trained_has_the_scales_of_its_parts(tiny_captioner, settings, tmp_path):
    every = ("image_encoder", "image_blocks", "cross_attention", "decoder", "embeddings")
    scales = {part: 0.5**number for number, part in enumerate(every, 1)}
    captioner = tiny_captioner()
    captioner.backbone.set_trainable_parts(every)
    run = settings(tmp_path, train_parts=every, rate_scales=scales, weight_decays={"image_blocks": 0.25})
    optimizer = compiled_model(run, captioner, num_steps=10).optimizer
    part_of = {id(v): part for part, vs in variables_of_parts(captioner.backbone).items() for v in vs}
    for variable, scale, decay in zip(
        captioner.trainable_variables, optimizer._scales, optimizer._decays, strict=True
    ):
        part = part_of[id(variable)]
        assert scale == scales[part], variable.path
        if variable.name == "kernel":
            assert decay == (0.25 if part == "image_blocks" else 0.01), variable.path
