"""Validation against a computation by hand: caption by caption, token by token."""

import numpy as np
import pytest

from captioner.sampling import DecodingSettings
from trainers.caption_sets import tokenize_captions
from trainers.loop import training_model
from trainers.pipeline import ImageFiles, validation_dataset
from trainers.records import CaptionedImage
from trainers.validation import Validator, image_rows


@pytest.fixture(scope="module")
def captioner(tiny_captioner):
    captioner = tiny_captioner()
    for variable in captioner.backbone.trainable_variables:
        if "kernel" in variable.path or "embedding" in variable.path:
            variable.assign(variable * 8)
    return captioner


@pytest.fixture(scope="module")
def images(photos):
    captions = [("a dog",), ("two cats sleep", "a red sofa"), ("the beach", "a man rides", "his bike")]
    return [CaptionedImage(photos / f"{i}.png", captions[i % 3]) for i in range(7)]


def validator(captioner, images, num_captioned=0, **changes):
    captions = tokenize_captions(images, captioner.preprocessor.tokenizer, max_length=9)
    source = ImageFiles(paths=captions.paths, transform=captioner.preprocessor.image_transform)
    arguments = {"num_captioned": num_captioned, "num_beams": 2, "max_length": 6, "encode": None}
    return Validator(
        captioner,
        training_model(captioner, None),
        validation_dataset(captions, source, batch_size=2),
        [image.captions for image in images],
        **arguments | changes,
    )


@pytest.fixture(scope="module")
def result(captioner, images):
    return validator(captioner, images)()


def test_loss_perplexity_and_accuracy_are_those_of_each_token_of_each_caption(captioner, images, result):
    tokenizer = captioner.preprocessor.tokenizer
    log_probs, hits = [], []
    for image in images:
        pixels = captioner.preprocessor.prepare_images([image.path])
        for caption in image.captions:
            ids = [tokenizer.start_token_id, *tokenizer.encode_batch([caption])[0]][:9]
            targets = [*ids[1:], tokenizer.end_token_id]
            inputs = {
                "images": pixels,
                "token_ids": np.array([ids]),
                "padding_mask": np.ones((1, len(ids)), bool),
            }
            logits = np.array(captioner(inputs, training=False))[0].astype("float64")
            log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            log_probs += [row[target] for row, target in zip(log_softmax, targets, strict=True)]
            hits += [row.argmax() == target for row, target in zip(logits, targets, strict=True)]
    metrics, _ = result
    assert metrics["val_loss"] == pytest.approx(-np.mean(log_probs), rel=1e-5)
    assert metrics["val_perplexity"] == pytest.approx(np.exp(-np.mean(log_probs)), rel=1e-4)
    assert metrics["val_token_accuracy"] == pytest.approx(np.mean(hits))


def test_every_image_has_the_caption_that_the_captioner_gives_it(captioner, images, result):
    metrics, captions = result
    wanted = captioner.caption([image.path for image in images], DecodingSettings(num_beams=2, max_length=6))
    assert captions == {index: best.text for index, (best,) in enumerate(wanted)}
    assert len(set(captions.values())) > 1
    assert 0 <= metrics["val_bleu_4"] <= 1 and metrics["val_cider"] >= 0


def test_a_sample_is_spread_over_the_images(captioner, images):
    _, captions = validator(captioner, images, num_captioned=4)()
    assert sorted(captions) == [0, 1, 4, 5]


def test_captions_longer_than_the_model_reads_are_not_asked_for(captioner, images):
    assert validator(captioner, images, max_length=99).sampler.max_length == 17


def test_captions_are_decoded_as_the_preset_says(tiny_captioner, images):
    captioner = tiny_captioner()
    captioner.preprocessor.decoding = {
        "length_penalty": 1.3,
        "min_length": 8,
        "num_beams": 5,
        "max_length": 9,
    }
    wanted = DecodingSettings(length_penalty=1.3, min_length=6, num_beams=2, max_length=6)
    assert validator(captioner, images).sampler == wanted


def test_a_preset_that_draws_its_captions_is_measured_by_beam_search(tiny_captioner, images):
    captioner = tiny_captioner()
    captioner.preprocessor.decoding = {"sampler": "nucleus", "top_p": 0.5}
    assert validator(captioner, images).sampler == DecodingSettings(num_beams=2, max_length=6)


def test_the_weights_of_the_moment_are_measured(captioner, images):
    measure = validator(captioner, images[:2])
    before = measure()[0]["val_loss"]
    variable = captioner.backbone.decoder.final_norm.beta
    kept = np.array(variable.value)
    variable.assign(kept + np.arange(22) / 7)
    assert measure()[0]["val_loss"] != before
    variable.assign(kept)
    assert measure()[0]["val_loss"] == before


def test_contact_sheet_rows_show_caption_and_reference(images):
    rows = image_rows(
        [image.path for image in images], {4: "a cat", 1: "a dog"}, [i.captions for i in images], 1
    )
    assert [(row.image.name, row.lines) for row in rows] == [("1.png", ("a dog", "(two cats sleep)"))]
