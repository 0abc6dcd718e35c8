"""Self-critical training: what a drawn caption is worth, what the step learns from, and whole runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from runs import assert_same_run, killed_in_epoch, read_metrics

from captioner.evaluation import CiderD
from captioner.text import train_tokenizer
from trainers.self_critical import CaptionReward, SelfCriticalModel

CORPUS = [
    ["a dog runs", "the dog runs on a beach"],
    ["two cats sleep", "cats on a sofa"],
    ["a man", "a bike"],
]
RUN = {
    "objective": "self_critical",
    "epochs": 2,
    "num_samples": 3,
    "validation_split": 0.3,
    "learning_rate": 3e-3,
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([text for texts in CORPUS for text in texts] * 2, 300)


def padded(tokenizer, texts, end=True, length=12):
    rows = np.full((len(texts), length), tokenizer.pad_token_id, "int32")
    for row, ids in enumerate(tokenizer.encode_batch(texts)):
        ids = ids + [tokenizer.end_token_id] * end
        rows[row, : len(ids)] = ids
    return rows


def given_batch(tokenizer, images):
    given = np.stack([padded(tokenizer, texts) for texts in images])
    return given, given != tokenizer.pad_token_id


def test_a_caption_of_the_image_is_worth_more_than_one_of_another(tokenizer):
    drawn = np.stack([padded(tokenizer, ["a dog runs", "two cats sleep", "zebra"])] * 2)
    rewards = CaptionReward(tokenizer, CORPUS)(drawn, *given_batch(tokenizer, CORPUS[:2]))
    assert rewards.shape == (2, 3) and rewards.dtype == "float32"
    assert rewards[0, 0] > rewards[0, 1] >= 0 and rewards[1, 1] > rewards[1, 0] and rewards[0, 2] == 0


def test_the_end_of_a_caption_counts_as_a_word(tokenizer):
    marked = [[f"{text} <end>" for text in texts] for texts in CORPUS]
    cider = CiderD(marked)
    ended, cut = (padded(tokenizer, ["the dog runs"], end=end)[None] for end in (True, False))
    reward = CaptionReward(tokenizer, CORPUS)
    batch = given_batch(tokenizer, CORPUS[:1])
    cut[cut == tokenizer.pad_token_id] = (
        tokenizer.start_token_id
    )  # a cut caption fills its positions, and has no text here
    assert reward(ended, *batch)[0, 0] == pytest.approx(cider("the dog runs <end>", marked[0]), rel=1e-6)
    assert reward(cut, *batch)[0, 0] == pytest.approx(cider("the dog runs", marked[0]), rel=1e-6)
    assert reward(ended, *batch)[0, 0] > reward(cut, *batch)[0, 0]


def test_missing_captions_of_an_image_are_no_references(tokenizer):
    given, mask = given_batch(tokenizer, CORPUS[:1])
    mask[0, 1] = False
    drawn = padded(tokenizer, ["a dog runs"])[None]
    reward = CaptionReward(tokenizer, CORPUS)
    assert reward(drawn, given, mask) == reward(drawn, given[:, :1], mask[:, :1])
    assert reward(drawn, given, mask) > reward(drawn, *given_batch(tokenizer, CORPUS[:1]))


@pytest.fixture
def step_data(tiny_captioner, settings, tmp_path, monkeypatch):
    """Function `(**changes)` that gives the model, and the batch that its step learns from."""

    def run(**changes):
        captioner = tiny_captioner(dropout=0.0)
        tokenizer = captioner.preprocessor.tokenizer
        made = settings(tmp_path / "run", **RUN | changes)
        model = SelfCriticalModel(
            keras.Model(captioner.input, captioner.output),
            captioner,
            captioner.backbone.encode_images,
            CORPUS,
            made,
        )
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer=optimizer, loss=model.caption_loss, run_eagerly=True)
        seen = []

        def capture(self, data):
            seen.append(data)
            return {}

        given = padded(tokenizer, ["a dog", "the beach", "two cats", "red sofa"], length=9).reshape(2, 2, 9)
        x = {
            "images": tf.random.stateless_uniform((2, 9, 15, 3), (1, 2), maxval=255.0),
            "token_ids": tf.constant(np.roll(given, 1, axis=2)),
            "padding_mask": tf.constant(given != tokenizer.pad_token_id),
        }
        weight = tf.constant((given != tokenizer.pad_token_id).astype("float32"))
        with monkeypatch.context() as patch:
            patch.setattr(keras.Model, "train_step", capture)
            model.train_step((x, tf.constant(given), weight))
        return model, x, weight, seen[0]

    return run


def test_the_step_learns_what_was_drawn_weighted_by_what_it_gains(step_data, tiny_captioner, monkeypatch):
    worth = np.array([[1.0, 4.0, 7.0], [2.0, 2.0, 2.0]], "float32")
    monkeypatch.setattr(CaptionReward, "__call__", lambda self, drawn, given, mask: worth)
    model, x, _, (inputs, targets, weights) = step_data()
    mask = inputs["padding_mask"].numpy()
    lengths, num_tokens = mask.sum(axis=2), mask.sum()
    np.testing.assert_array_equal(inputs["token_ids"][:, :, 1:], targets[:, :, :-1])
    # Against the mean of the two others: 1 - 5.5, 4 - 4, 7 - 2.5.
    expected = np.array([[-4.5, 0.0, 4.5], [0.0, 0.0, 0.0]]) / num_tokens
    np.testing.assert_allclose(weights, np.where(mask, expected[:, :, None], 0.0), rtol=1e-6)
    end_token_id = tiny_captioner().preprocessor.tokenizer.end_token_id
    # A caption has no end token but its last, and only one that fills all positions may have none.
    for row, length in zip(targets.numpy().reshape(6, -1), lengths.ravel(), strict=True):
        ends = row[:length] == end_token_id
        assert not ends[:-1].any() and (ends[-1] or length == len(row))
    assert float(model.reward_tracker.result()) == pytest.approx(worth.mean())
    assert inputs["images"] is x["images"]


def test_the_greedy_baseline_is_the_worth_of_the_greedy_caption(step_data, monkeypatch):
    monkeypatch.setattr(
        CaptionReward, "__call__", lambda self, drawn, given, mask: drawn.sum(axis=2).astype("float32")
    )
    model, x, _, (inputs, _, weights) = step_data(baseline="greedy", num_samples=1)
    (drawn, _), (greedy, _) = model._draw(x["images"], model.optimizer.iterations)
    gains = drawn.numpy()[:, 0, 1:].sum(axis=1) - greedy.numpy()[:, 0, 1:].sum(axis=1)
    num_tokens = inputs["padding_mask"].numpy().sum()
    np.testing.assert_allclose(weights[:, 0, 0], gains / num_tokens, rtol=1e-5)
    assert np.any(gains != 0)


def test_given_captions_keep_their_share_of_the_loss(step_data):
    _, x, weight, (inputs, targets, weights) = step_data(cross_entropy_weight=0.25)
    assert targets.shape[:2] == (2, 5)
    given = weights.numpy()[:, 3:]
    np.testing.assert_allclose(given, 0.25 * weight.numpy() / weight.numpy().sum(), rtol=1e-6)
    np.testing.assert_array_equal(inputs["token_ids"][:, 3:], x["token_ids"])
    np.testing.assert_array_equal(inputs["padding_mask"][:, 3:], x["padding_mask"])


def test_draws_change_with_the_step_and_the_seed_and_with_nothing_else(step_data):
    model, x, _, _ = step_data()
    again = [np.array(model._draw(x["images"], step)[0][0]) for step in (0, 0, 1)]
    np.testing.assert_array_equal(again[0], again[1])
    assert not np.array_equal(again[0], again[2])
    other, x, _, _ = step_data(seed=1)
    assert not np.array_equal(again[0], np.array(other._draw(x["images"], 0)[0][0]))


def test_the_reward_rises(train, tmp_path):
    long = RUN | {
        "epochs": 12,
        "batch_size": 4,
        "num_samples": 8,
        "validation_split": 0.0,
        "learning_rate": 1e-2,
    }
    train(tmp_path / "run", **long)
    rewards = [line["reward"] for line in read_metrics(tmp_path / "run")]
    assert np.mean(rewards[-3:]) > 2 * np.mean(rewards[:3]), rewards


@pytest.mark.parametrize("cached", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(train, tmp_path, cached):
    run = RUN | {"cache_features": cached, "cross_entropy_weight": 0.2, "ema_momentum": 0.9, "dropout": 0.2}
    train(tmp_path / "whole", **run)
    with killed_in_epoch(2):
        train(tmp_path / "run", **run)
    train(tmp_path / "run", **run, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_captioner_from_scratch_is_refused(settings, tmp_path):
    with pytest.raises(
        ValueError, match="needs a captioner that writes sentences already: give its `preset`"
    ):
        settings(tmp_path, preset=None, objective="self_critical")


def test_one_sample_has_no_mean_of_the_others(settings, tmp_path):
    with pytest.raises(ValueError, match="`num_samples` must be at least 2 with baseline=mean"):
        settings(tmp_path, objective="self_critical", num_samples=1)


def test_another_backend_is_refused(step_data, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="needs KERAS_BACKEND=tensorflow; it is jax"):
        SelfCriticalModel(None, None, None, [], None)


def test_batches_whose_gradients_are_accumulated_draw_with_numbers_of_their_own(step_data, monkeypatch):
    model, x, weight, _ = step_data()
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, loss=model.caption_loss, run_eagerly=True)
    draw, steps = model._draw, []
    monkeypatch.setattr(model, "_draw", lambda images, step: steps.append(int(step)) or draw(images, step))
    targets = tf.roll(x["token_ids"], -1, axis=2)
    for _ in range(4):
        model.train_step((x, targets, weight))
    assert steps == [0, 1, 2, 3]
