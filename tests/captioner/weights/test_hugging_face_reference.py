"""Hugging Face's ViT-GPT2 captioners against transformers: same pixels, same logits, same captions."""

import json

import keras
import numpy as np
import pytest
from hugging_face_captioners import DECODING, GENERATION, photos, rewrite_json, write_captioner, write_tensors

from captioner.model import ImageCaptioner
from captioner.sampling import DecodingSettings
from captioner.weights import read_safetensors
from captioner.weights.hugging_face_captioner import load_hugging_face_captioner

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch", reason='needs pip install "captioner[oracle]"')
transformers = pytest.importorskip("transformers", reason='needs pip install "captioner[oracle]"')

# With and without a projection between the halves; in one file and in shards; an odd and an even sequence.
CASES = {
    "vit": {"kind": "vit", "seed": 4},
    "vit_without_projection": {"kind": "vit", "encoder_width": 10, "seed": 7},
    "deit_in_shards": {"kind": "deit", "seed": 7, "max_shard_size": "20KB"},
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """A folder, transformers' model and ours."""
    folder = tmp_path_factory.mktemp(request.param)
    model = write_captioner(folder, **CASES[request.param])
    ours, report = load_hugging_face_captioner(folder)
    assert report.new == ()
    return folder, model, ours


@pytest.fixture
def folder(tmp_path):
    write_captioner(tmp_path)
    return tmp_path


def pixel_values(folder, images):
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return torch.tensor(np.asarray(processor(images=list(images), return_tensors="np")["pixel_values"]))


def test_pixel_values_are_the_same(pair):
    folder, _, ours = pair
    images = photos(3)
    theirs = pixel_values(folder, images).numpy().transpose(0, 2, 3, 1)
    found = ours.backbone.image_encoder.get_layer("rescaling")(ours.preprocessor.prepare_images(images))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), theirs, atol=1e-5)


@pytest.mark.parametrize(("resample", "tolerance"), [(2, 1.0), (3, 1.1)])
def test_photos_of_other_sizes_are_within_a_grey_level(folder, resample, tolerance):
    rewrite_json(folder / "preprocessor_config.json", resample=resample)
    ours, _ = load_hugging_face_captioner(folder)
    photo = smooth_photo()
    theirs = pixel_values(folder, [photo]).numpy()[0].transpose(1, 2, 0)
    grey_levels = (theirs * [0.5, 0.3, 0.2] + [0.5, 0.4, 0.6]) * 255
    np.testing.assert_allclose(ours.preprocessor.prepare_images([photo])[0], grey_levels, atol=tolerance)


def test_a_crop_takes_the_middle_as_theirs_does(folder):
    size, crop = {"height": 17, "width": 25}, {"height": 12, "width": 18}
    rewrite_json(folder / "preprocessor_config.json", size=size, do_center_crop=True, crop_size=crop)
    rewrite_json(folder / "preprocessor_config.json", image_processor_type="DeiTImageProcessor")
    ours, _ = load_hugging_face_captioner(folder)
    photo = smooth_photo()
    theirs = pixel_values(folder, [photo]).numpy()[0].transpose(1, 2, 0)
    grey_levels = (theirs * [0.5, 0.3, 0.2] + [0.5, 0.4, 0.6]) * 255
    np.testing.assert_allclose(ours.preprocessor.prepare_images([photo])[0], grey_levels, atol=1.0)


def test_logits_are_the_same(pair):
    folder, model, ours = pair
    images = photos(3)
    generator = np.random.default_rng(0)
    num_tokens = ours.preprocessor.tokenizer.vocabulary_size()
    for length in (1, 7, 17):
        token_ids = generator.integers(0, num_tokens, (3, length)).astype("int32")
        with torch.no_grad():
            expected = model(
                pixel_values=pixel_values(folder, images),
                decoder_input_ids=torch.tensor(token_ids.astype("int64")),
            ).logits.numpy()
        inputs = {
            "images": ours.preprocessor.prepare_images(images),
            "token_ids": token_ids,
            "padding_mask": np.ones((3, length), bool),
        }
        found = keras.ops.convert_to_numpy(ours(inputs, training=False))
        assert expected.std() > 0.5
        np.testing.assert_allclose(found, expected, atol=1e-4)


def beam_search(ours):
    """The decoding settings that came with the folder."""
    return DecodingSettings(**ours.preprocessor.decoding)


def test_captions_of_beam_search_are_the_same(pair):
    folder, model, ours = pair
    images = photos(12)
    with torch.no_grad():
        generated = model.generate(
            pixel_values(folder, images), output_scores=True, return_dict_in_generate=True
        )
    end = model.generation_config.eos_token_id
    expected = [[int(i) for i in row[1:] if i != end] for row in generated.sequences]
    assert len({tuple(row) for row in expected}) > 6 and len({len(row) for row in expected}) > 1
    found = [captions[0] for captions in ours.caption(images, sampler=beam_search(ours))]
    scores = generated.sequences_scores.tolist()
    for caption, row, score in zip(found, expected, scores, strict=True):
        assert [i for i in caption.token_ids if i != end] == row
        assert caption.score == pytest.approx(score, abs=1e-4)
        assert caption.text == ours.preprocessor.tokenizer.decode(row).strip()


GREEDY = {"num_beams": 1, "early_stopping": None, "length_penalty": None}
GENERATIONS = [
    {"early_stopping": False, "length_penalty": 1.6},
    {"early_stopping": False, "length_penalty": 0.0},
    {"early_stopping": True},
    {"early_stopping": None},
    GREEDY,
    GREEDY | {"no_repeat_ngram_size": 2, "min_length": 6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2, "early_stopping": True},
    {"repetition_penalty": 1.6},
    {"repetition_penalty": 0.7, "early_stopping": False},
    {"min_length": 7},
    {"min_new_tokens": 7},
    {"max_new_tokens": 6},
    {"early_stopping": None, "min_length": 6, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
]


@pytest.mark.parametrize("generation", GENERATIONS, ids=str)
def test_captions_follow_the_generation_settings_of_the_folder(tmp_path, generation):
    model = write_captioner(tmp_path, seed=4, start=0, generation=generation)
    ours, _ = load_hugging_face_captioner(tmp_path)
    images = photos(12)
    with torch.no_grad():
        generated = model.generate(pixel_values(tmp_path, images))
    end = model.generation_config.eos_token_id
    expected = [[int(i) for i in row[1:] if i != end] for row in generated]
    assert len({tuple(row) for row in expected}) > 6
    found = [[i for i in captions[0].token_ids if i != end] for captions in ours.caption(images)]
    assert found == expected


def test_a_preset_keeps_everything(pair, tmp_path):
    _, _, ours = pair
    images = photos(5)
    expected = ours.caption(images, sampler=beam_search(ours))
    assert ours.caption(images) == expected  # the folder's decoding settings are the defaults
    ours.save_to_preset(tmp_path / "preset")
    again = ImageCaptioner.from_preset(tmp_path / "preset")
    assert again.preprocessor.get_config() == ours.preprocessor.get_config()
    assert again.caption(images) == expected


def test_tokens_and_defaults_are_those_of_the_folder(pair):
    _, model, ours = pair
    tokenizer, end = ours.preprocessor.tokenizer, model.generation_config.eos_token_id
    assert (tokenizer.start_token_id, tokenizer.end_token_id, tokenizer.pad_token_id) == (end, end, end)
    assert ours.preprocessor.decoding == DECODING
    assert GENERATION["max_length"] == 14  # theirs counts the start token


def test_biases_that_the_original_does_without_are_zero(folder):
    tensors = read_safetensors(folder / "model.safetensors")
    biases = ("query.bias", "key.bias", "value.bias")
    kept = {name: tensors[name] for name in tensors if not name.endswith(biases)}
    write_tensors(folder, kept)
    config = json.loads((folder / "config.json").read_text())
    rewrite_json(folder / "config.json", encoder=config["encoder"] | {"qkv_bias": False})
    ours, report = load_hugging_face_captioner(folder)
    assert len(report.new) == 2
    model = transformers.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    images = photos(2)
    with torch.no_grad():
        expected = model.encoder(pixel_values(folder, images)).last_hidden_state.numpy()
    found = ours.backbone.image_encoder(ours.preprocessor.prepare_images(images))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, atol=1e-4)


def smooth_photo():
    rows, columns = np.mgrid[0:41, 0:67]
    waves = [np.sin(rows / 5) + np.cos(columns / 7), np.sin(columns / 4), np.cos(rows * columns / 99)]
    return (np.stack(waves, -1) * 60 + 127).astype("uint8")
