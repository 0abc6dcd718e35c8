"""A model that is built, filled and saved without ever being in memory is the one that would have been there."""

import keras
import numpy as np
import pytest
from gpt2_folders import SIZES, hugging_face_tensors, write_hugging_face_folder

from captioner.model import ImageCaptioner
from captioner.weights.deferred import DeferredVariables, fill, outside_deferral
from captioner.weights.gpt2 import build_captioner, load_gpt2


@pytest.fixture
def calls():
    return []


def dense(calls) -> keras.layers.Dense:
    """A built layer of 2 inputs and 3 units; `calls` notes each initialisation of its kernel."""

    def initializer(shape, dtype=None):
        calls.append(tuple(shape))
        return keras.ops.full(shape, 7.0, dtype)

    layer = keras.layers.Dense(3, kernel_initializer=initializer)
    layer.build((None, 2))
    return layer


def test_a_variable_is_read_when_it_is_saved_and_not_before(calls):
    with DeferredVariables():
        layer = dense(calls)
        fill(layer.bias, lambda: calls.append("bias") or np.arange(3))
        assert calls == []
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.bias), [0, 1, 2])
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.kernel), np.full((2, 3), 7))
    assert calls == ["bias", (2, 3)]


def test_outside_the_scope_a_variable_is_filled_at_once(calls):
    layer = dense(calls)
    fill(layer.bias, lambda: np.arange(3))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.bias), [0, 1, 2])


def test_no_later_scope_gives_the_variables_values(calls):
    with DeferredVariables():
        layer = dense(calls)
        fill(layer.bias, lambda: np.arange(3))
        with outside_deferral():
            at_once = []
            dense(at_once)
    with keras.StatelessScope():
        pass
    assert len(at_once) == 1 and calls == []


def test_a_preset_holds_what_one_from_memory_holds(tmp_path):
    tensors = hugging_face_tensors(SIZES["two_layers"])
    folder = write_hugging_face_folder(tmp_path / "gpt2", SIZES["two_layers"], tensors)
    # The image encoder's weights are set in the scope, the cross-attention is left to its initialiser.
    arguments = {"image_encoder": "efficientnet_lite0", "image_size": (32, 32), "num_image_layers": 0}
    expected, report = build_captioner(load_gpt2(folder), **arguments)
    with DeferredVariables():
        deferred, deferred_report = build_captioner(load_gpt2(folder), **arguments)
        deferred.save_to_preset(tmp_path / "preset")
    assert len(deferred_report.assigned) == len(report.assigned) == len(tensors)
    found = ImageCaptioner.from_preset(tmp_path / "preset").backbone
    for name in ("image_encoder", "decoder"):
        pairs = zip(getattr(found, name).weights, getattr(expected.backbone, name).weights, strict=True)
        for ours, theirs in pairs:
            if ours.path.endswith(("cross_attention_query/kernel", "cross_attention_key_value/kernel")):
                assert ours.shape == theirs.shape and np.std(ours) > 0.01
            else:
                np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
