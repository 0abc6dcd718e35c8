"""The captioner as its users meet it: fit, generate, caption, presets."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_captioner import CAPTIONS, logits_of, random_batch, random_images, tiny_captioner

from captioner.model import ImageCaptioner, image_captioner
from captioner.sampling import DecodingSettings
from trainers.build import export_preset

IMAGES = random_images(4)


@pytest.fixture(scope="module")
def model():
    return tiny_captioner()


@pytest.fixture(scope="module")
def fitted():
    """A captioner that was trained on four images with raw captions until it knows them."""
    model = tiny_captioner(seed=1)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)
    history = model.fit({"images": IMAGES, "captions": CAPTIONS}, batch_size=4, epochs=60, verbose=0)
    return model, history.history["loss"]


def test_fit_preprocesses_raw_images_and_captions_and_learns_them(fitted):
    model, losses = fitted
    assert losses[-1] < 0.1 * losses[0]
    assert [c[0].text for c in model.caption(IMAGES, DecodingSettings(sampler="greedy", max_length=16))] == [
        model.preprocessor.tokenizer.decode(model.preprocessor.tokenizer.tokenize(c)[:12]) for c in CAPTIONS
    ]


def test_fit_reads_paths_and_several_captions_for_an_image(tmp_path, fitted):
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    model = fitted[0]
    texts = [[c, c] for c in CAPTIONS]
    once = model.evaluate({"images": IMAGES, "captions": CAPTIONS}, batch_size=4, verbose=0, return_dict=True)
    twice = model.evaluate({"images": paths, "captions": texts}, batch_size=2, verbose=0, return_dict=True)
    assert once["loss"] == pytest.approx(twice["loss"], rel=1e-3)


def test_a_batch_gives_the_captions_that_its_images_give_one_by_one(model):
    sampler = DecodingSettings(num_beams=3, max_length=6)
    together = model.caption(IMAGES, sampler, num_captions=2, batch_size=3)
    alone = [model.caption([image], sampler, num_captions=2)[0] for image in IMAGES]
    assert [[c.token_ids for c in cs] for cs in together] == [[c.token_ids for c in cs] for cs in alone]
    assert len({cs[0].token_ids for cs in together}) > 1, "the captions do not depend on the image"


def test_captions_carry_the_models_own_log_probabilities(model):
    tokenizer = model.preprocessor.tokenizer
    for sampler in (
        DecodingSettings(num_beams=3, max_length=7),
        DecodingSettings(sampler="nucleus", top_p=0.9, max_length=7),
    ):
        for caption in model.caption(IMAGES[:1], sampler, num_captions=3)[0]:
            ids = [tokenizer.start_token_id, *caption.token_ids]
            inputs = {
                "images": model.preprocessor.prepare_images(IMAGES[:1]),
                "token_ids": np.array([ids[:-1]], "int32"),
                "padding_mask": np.ones((1, len(ids) - 1), bool),
            }
            logits = logits_of(model, inputs)[0].astype("float64")
            log_probs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            log_probs -= logits.max(-1, keepdims=True)
            each = np.take_along_axis(log_probs, np.array(ids[1:])[:, None], axis=1)[:, 0]
            np.testing.assert_allclose(caption.token_log_probs, each, atol=1e-4)
            assert caption.log_prob == pytest.approx(each.sum(), abs=1e-4)
            alpha = sampler.length_penalty if sampler.sampler == "beam" else 1.0
            assert caption.score == pytest.approx(caption.log_prob / len(each) ** alpha, rel=1e-4)


def test_paths_and_arrays_of_different_sizes_are_captioned_alike(model, tmp_path):
    arrays = [
        np.random.default_rng(i).integers(0, 256, (9 + 7 * i, 40 - i, 3)).astype("uint8") for i in range(3)
    ]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, array in zip(paths, arrays, strict=True):
        Image.fromarray(array).save(path)
    sampler = DecodingSettings(sampler="greedy", max_length=5)
    assert model.caption(paths, sampler) == model.caption(arrays, sampler)
    assert model.caption(str(paths[0]), sampler) == model.caption(arrays[0], sampler)
    assert model.caption([], sampler) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sampler": DecodingSettings(num_beams=2, max_length=4), "num_captions": 3},
            "num_captions=3.*Raise `num_beams`",
        ),
        ({"sampler": DecodingSettings(sampler="greedy", max_length=4), "num_captions": 2}, "num_captions=2"),
        (
            {"sampler": DecodingSettings(sampler="greedy", max_length=18)},
            "at most 17 generated tokens.*received max_length=18",
        ),
        ({"batch_size": 0}, "received batch_size=0"),
    ],
)
def test_what_cannot_be_captioned_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.caption(IMAGES, **arguments)


def test_the_last_learned_position_can_be_used(model):
    [[caption]] = model.caption(IMAGES[:1], DecodingSettings(sampler="greedy", max_length=17))
    assert len(caption.token_ids) == 17 or caption.token_ids[-1] == model.preprocessor.tokenizer.end_token_id


def test_captions_follow_weights_that_change_later():
    model, other = tiny_captioner(), tiny_captioner(seed=5)
    sampler = DecodingSettings(sampler="greedy", max_length=6)
    before = model.caption(IMAGES, sampler)
    model.set_weights(other.get_weights())
    assert model.caption(IMAGES, sampler) == other.caption(IMAGES, sampler) != before


def test_captions_follow_lora_after_compiling_again():
    model, sampler = tiny_captioner(), DecodingSettings(sampler="greedy", max_length=6)
    before = model.caption(IMAGES, sampler)
    model.backbone.enable_lora(2)
    model.compile()
    for variable in model.trainable_variables:
        if "lora" in variable.path:
            variable.assign(keras.random.normal(variable.shape, seed=1))
    assert model.caption(IMAGES, sampler) != before


@pytest.mark.parametrize(
    "sampler", [DecodingSettings(num_beams=3), DecodingSettings(sampler="greedy"), "greedy", "beam", "top_p"]
)
def test_generate_runs_with_our_samplers_and_kerashubs(fitted, sampler):
    model = fitted[0]
    model.compile(sampler=sampler, jit_compile=False)
    texts = model.generate({"images": IMAGES}, max_length=14)
    expected = model.caption(IMAGES, DecodingSettings(sampler="greedy", max_length=13))
    assert [text.strip() for text in texts] == [captions[0].text for captions in expected]


def test_generate_takes_one_image_many_paths_prompts_and_datasets(fitted, tmp_path):
    model = fitted[0]
    model.compile(sampler=DecodingSettings(sampler="greedy"), jit_compile=False)
    expected = model.generate({"images": IMAGES})
    assert isinstance(expected, list) and len(expected) == 4
    assert model.generate(IMAGES[0]) == expected[0]
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    assert model.generate(paths) == expected
    assert model.generate(str(paths[1])) == expected[1]
    assert model.generate(tf.data.Dataset.from_tensor_slices({"images": IMAGES}).batch(2)) == expected
    prompted = model.generate({"images": IMAGES[:2], "prompts": ["two cats", "a dog"]})
    assert prompted[0].startswith("two cats") and prompted[1].startswith("a dog")
    assert model.generate({"images": IMAGES[1], "prompts": "a dog"}) == prompted[1]


def test_generate_compiled_by_xla_says_the_same(fitted):
    model = fitted[0]
    model.compile(jit_compile=True)
    expected = model.caption(IMAGES[:2], DecodingSettings(max_length=13))
    assert model.generate({"images": IMAGES[:2]}, max_length=14) == [c[0].text for c in expected]


def test_generate_ends_where_the_end_is_also_the_padding(fitted):
    """KerasHub's samplers look for the end in unfilled positions too, and would stop before the first word."""
    model = fitted[0]
    model.compile(sampler="greedy", jit_compile=False)
    expected = model.generate({"images": IMAGES[:2]})
    tokenizer = model.preprocessor.tokenizer
    pad, tokenizer.pad_token_id = tokenizer.pad_token_id, tokenizer.end_token_id
    try:
        assert model.generate({"images": IMAGES[:2]}) == expected
        assert all(expected)
    finally:
        tokenizer.pad_token_id = pad


def test_generate_beyond_the_learned_positions_is_refused(model):
    with pytest.raises(ValueError, match=r"at most 17 generated tokens.*received max_length=18"):
        model.generate({"images": IMAGES[:1]}, max_length=19)


@pytest.fixture(scope="module")
def preset(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    model.save_to_preset(str(folder))
    return folder


@pytest.mark.parametrize("loader", [ImageCaptioner, keras_hub.models.CausalLM])
def test_a_preset_comes_back_as_the_same_captioner(model, preset, loader):
    loaded = loader.from_preset(str(preset))
    assert type(loaded) is ImageCaptioner
    batch = random_batch(model, 2, 2, 5)
    np.testing.assert_array_equal(logits_of(loaded, batch), logits_of(model, batch))
    sampler = DecodingSettings(num_beams=2, max_length=5)
    assert loaded.caption(IMAGES[:1], sampler) == model.caption(IMAGES[:1], sampler)


def test_a_preset_loads_in_another_number_format(model, preset):
    loaded = ImageCaptioner.from_preset(preset, dtype="bfloat16")
    assert {v.dtype for v in loaded.backbone.decoder.variables} == {"bfloat16"}
    assert len(loaded.caption(IMAGES, DecodingSettings(sampler="greedy", max_length=4))) == 4


def test_a_preset_stored_in_float16_loads_in_float32(model, tmp_path):
    export_preset(model, tmp_path / "half", weights_dtype="float16")
    loaded = ImageCaptioner.from_preset(tmp_path / "half")
    assert {v.dtype for v in loaded.backbone.decoder.variables} == {"float32"}
    batch = random_batch(model, 2, 2, 5)
    exact, close = logits_of(model, batch), logits_of(loaded, batch)
    assert 0 < np.abs(close - exact).max() < 0.02 * np.abs(exact).max()


def test_a_captioner_comes_back_from_a_keras_file(model, tmp_path):
    model.compile(sampler=DecodingSettings(num_beams=2), jit_compile=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    batch = random_batch(model, 1, 2, 4)
    np.testing.assert_array_equal(logits_of(loaded, batch), logits_of(model, batch))


def test_a_captioner_without_preprocessor_trains_but_does_not_caption():
    model = ImageCaptioner(tiny_captioner().backbone)
    with pytest.raises(ValueError, match="needs a `preprocessor`"):
        model.caption(IMAGES)


def test_generate_decodes_as_the_preset_does_but_for_its_texts():
    model = tiny_captioner()
    model.preprocessor.decoding = {"num_beams": 2, "length_penalty": 1.3, "prompt": "a", "max_length": 9}
    model = ImageCaptioner(model.backbone, model.preprocessor)
    assert model.sampler.settings == DecodingSettings(num_beams=2, length_penalty=1.3, max_length=9)


def test_captions_of_another_seed_are_drawn_by_the_same_compiled_search_and_few_searches_are_kept(
    model, monkeypatch
):
    monkeypatch.setattr(image_captioner, "MOST_SEARCHES", 2)
    texts = []
    for seed in (0, 1, 0):
        settings = DecodingSettings(sampler="nucleus", seed=seed, max_length=6)
        texts.append([[c.token_ids for c in cs] for cs in model.caption(IMAGES, settings, num_captions=2)])
        (search,) = (search for search in model._searches.values() if search.settings.sampler == "nucleus")
        texts[-1].append(search)
    assert texts[0] == texts[2] and texts[0][:-1] != texts[1][:-1] and texts[0][-1] is texts[1][-1]
    for prompt in ("a", "a b", "b"):
        model.caption(IMAGES[:1], DecodingSettings(prompt=prompt, max_length=8))
    assert [search.settings.prompt for search in model._searches.values()] == ["a b", "b"]


def test_more_candidates_than_tokens_are_refused(model):
    with pytest.raises(
        ValueError, match=r"`top_k` must be at most \d+, the tokens of this model; received top_k=99999"
    ):
        model.caption(IMAGES[:1], DecodingSettings(sampler="contrastive", top_k=99999))
