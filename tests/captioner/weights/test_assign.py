"""Strict assignment: nothing is left over on either side, and an error changes nothing."""

import keras
import numpy as np
import pytest

from captioner.weights import WeightsError, assign_strictly


@pytest.fixture
def kernel():
    return keras.Variable(np.zeros((2, 3)), name="kernel")


@pytest.fixture
def bias():
    return keras.Variable(np.zeros(3), name="bias")


SOURCES = {"w": np.arange(6.0).reshape(3, 2), "b": np.arange(3.0), "steps": np.array(7)}
IGNORED = {"step*": "counts training steps"}


def test_each_variable_gets_its_transformed_source_and_the_report_says_so(kernel, bias):
    table = [("w", kernel, np.transpose), ("b", bias, None)]
    report = assign_strictly(SOURCES, table, targets=[kernel, bias], ignored=IGNORED)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel), [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(bias), [0, 1, 2])
    assert report.assigned == {"w": kernel.path, "b": bias.path}
    assert report.ignored == {"steps": "counts training steps"}
    assert report.new == ()


def test_a_variable_is_made_of_several_sources(kernel):
    sources = {"a": np.full((1, 3), 1.0), "b": np.full((1, 3), 2.0)}

    def joined(a, b):
        return np.concatenate([a, b])

    report = assign_strictly(sources, [(("a", "b"), kernel, joined)], targets=[kernel])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel), [[1, 1, 1], [2, 2, 2]])
    assert report.assigned == {"a": kernel.path, "b": kernel.path}
    with pytest.raises(WeightsError, match="checkpoint lacks: b"):
        assign_strictly({"a": sources["a"]}, [(("a", "b"), kernel, joined)], targets=[kernel])


def test_a_new_variable_keeps_its_value_and_is_reported(kernel, bias):
    sources = {"w": SOURCES["w"]}
    report = assign_strictly(sources, [("w", kernel, np.transpose)], targets=[kernel, bias], new=[bias])
    assert report.new == (bias.path,)


@pytest.mark.parametrize(
    ("table_of", "ignored", "message"),
    [
        (lambda k, b: [("w", k, np.transpose), ("b", b, None)], {}, r"the model does not: steps \(\)"),
        (lambda k, b: [("w", k, np.transpose)], {"*": "all"}, r"would stay unset: bias \(3,\)"),
        (lambda k, b: [("w", k, np.transpose), ("bee", b, None)], {"*": "all"}, "checkpoint lacks: bee"),
        (lambda k, b: [("w", k, None), ("b", b, None)], IGNORED, r"w \(3, 2\) for kernel \(2, 3\)"),
        (lambda k, b: [("w", k, np.transpose), ("b", b, None), ("b", b, None)], IGNORED, "set twice: bias"),
    ],
)
def test_a_misfit_is_named_and_no_variable_changes(table_of, ignored, message, kernel, bias):
    with pytest.raises(WeightsError, match=message):
        assign_strictly(SOURCES, table_of(kernel, bias), targets=[kernel, bias], ignored=ignored)
    assert not keras.ops.convert_to_numpy(kernel).any()
    assert not keras.ops.convert_to_numpy(bias).any()


def test_a_long_list_of_names_is_cut(kernel):
    sources = {f"extra{i}": np.zeros(2) for i in range(20)} | {"w": SOURCES["w"]}
    with pytest.raises(WeightsError, match="and 12 more"):
        assign_strictly(sources, [("w", kernel, np.transpose)], targets=[kernel])
