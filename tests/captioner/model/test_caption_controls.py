"""The controls of decoding as a user of the captioner meets them: prompts, words, errors; and the cache."""

import re

import numpy as np
import pytest
from keras import ops
from tiny_captioner import logits_of, random_images, tiny_captioner

from captioner.sampling import DecodingSettings
from captioner.sampling.decode import decode, rows_per_image
from captioner.sampling.task import Task

IMAGES = random_images(3)
SAMPLERS = {
    "beam": {"num_beams": 3},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "greedy": {"sampler": "greedy"},
    "nucleus": {"sampler": "nucleus", "seed": 3},
    "contrastive": {"sampler": "contrastive"},
}


@pytest.fixture(scope="module")
def model():
    return tiny_captioner()


def own_log_probs(model, image, token_ids):
    ids = [model.preprocessor.tokenizer.start_token_id, *token_ids]
    inputs = {
        "images": model.preprocessor.prepare_images([image]),
        "token_ids": np.array([ids[:-1]], "int32"),
        "padding_mask": np.ones((1, len(ids) - 1), bool),
    }
    logits = logits_of(model, inputs)[0].astype("float64")
    logits -= logits.max(axis=-1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.take_along_axis(log_probs, np.array(ids[1:])[:, None], axis=1)[:, 0]


@pytest.mark.parametrize(
    ("sampler", "score_prompt"), [*((name, True) for name in SAMPLERS), ("beam", False), ("nucleus", False)]
)
def test_a_caption_starts_with_the_prompt(model, sampler, score_prompt):
    prompt_ids = model.preprocessor.tokenizer.tokenize("a red dog")
    settings = DecodingSettings(
        prompt="a red dog ", score_prompt=score_prompt, max_length=14, **SAMPLERS[sampler]
    )
    for image, [caption] in zip(IMAGES, model.caption(IMAGES, settings), strict=True):
        assert caption.text.startswith("a red dog")
        assert caption.token_ids[: len(prompt_ids)] == tuple(prompt_ids)
        assert len(prompt_ids) < len(caption.token_ids) <= 14
        expected = own_log_probs(model, image, caption.token_ids)
        scored = expected if score_prompt else expected[len(prompt_ids) :]
        if not score_prompt:
            expected[: len(prompt_ids)] = 0
        np.testing.assert_allclose(caption.token_log_probs, expected, atol=1e-3)
        assert caption.log_prob == pytest.approx(scored.sum(), abs=1e-3)
        power = settings.length_penalty if settings.sampler == "beam" else 1.0
        assert caption.score == pytest.approx(scored.sum() / len(scored) ** power, rel=1e-4)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "groups"])
def test_a_caption_has_required_words_and_no_forbidden_ones(model, sampler):
    tokenizer = model.preprocessor.tokenizer
    free = model.caption(IMAGES, DecodingSettings(max_length=9, **SAMPLERS[sampler]))
    said = {tokenizer.decode([t]): t for [caption] in free for t in caption.token_ids}
    forbidden = {text: t for text, t in said.items() if text.strip() and tokenizer.tokenize(text) == [t]}
    forbidden = {text: t for text, t in forbidden.items() if text.strip().lower() not in "a red dog"}
    assert forbidden
    settings = DecodingSettings(
        max_length=16, required_words=("dog", "Red"), forbidden_words=tuple(forbidden), **SAMPLERS[sampler]
    )
    for [caption] in model.caption(IMAGES, settings):
        assert re.search(r"\bdog\b", caption.text.lower()) and re.search(r"\bred\b", caption.text.lower())
        assert not set(forbidden.values()) & set(caption.token_ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "two cats sleep", "max_length": 3}, "`prompt` must leave room.*max_length=3"),
        ({"required_words": ("dog", "sofa"), "max_length": 3}, "`max_length` must leave room for the required words"),
        ({"prompt": "a dog", "forbidden_words": ("Dog",)}, "`prompt` must not hold a forbidden word"),
        ({"required_words": ("a dog",), "forbidden_words": ("dog",)}, "must not hold what is forbidden"),
        ({"sampler": "contrastive", "max_length": 17}, "at most 16 generated tokens.*received max_length=17"),
    ],
)  # fmt: skip
def test_controls_that_contradict_each_other_are_refused(model, changes, message):
    with pytest.raises(ValueError, match=message):
        model.caption(IMAGES[:1], DecodingSettings(**{"max_length": 12} | changes))


def test_more_captions_than_the_controls_leave_are_refused(model):
    length = len(model.preprocessor.tokenizer.tokenize("sofa"))
    settings = DecodingSettings(max_length=length, required_words=("sofa",), num_beams=5)
    assert model.caption(IMAGES[:1], settings)[0][0].text.lower() == "sofa"
    with pytest.raises(ValueError, match=r"`num_captions` must be at most \d here.*received num_captions=5"):
        model.caption(IMAGES[:1], settings, num_captions=5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_decoding_with_a_cache_says_what_decoding_without_one_says(model, sampler):
    settings = DecodingSettings(max_length=6, no_repeat_ngram_size=2, **SAMPLERS[sampler])
    [[caption]] = model.caption(IMAGES[:1], settings)
    backbone, tokenizer = model.backbone, model.preprocessor.tokenizer
    image_tokens = backbone.encode_images(model.preprocessor.prepare_images(IMAGES[:1]))

    def next(token_ids, cache, index):
        mask = ops.ones((1, *token_ids.shape), dtype="bool")
        hidden = backbone.decoder(token_ids[None], mask, image_tokens)[0]
        hidden = ops.take(hidden, index - 1, axis=1)
        return backbone.decoder.logits(hidden), hidden, cache

    prompt = np.array([[tokenizer.start_token_id] + [tokenizer.pad_token_id] * 6], "int32")
    task = Task(
        prompt=ops.convert_to_tensor(prompt),
        prompt_mask=ops.convert_to_tensor(np.arange(7)[None] == 0),
        first_index=1,
        end_token_ids=(tokenizer.end_token_id,),
        pad_token_id=tokenizer.pad_token_id,
        settings=settings,
        num_captions=1,
        uniforms=np.random.default_rng(settings.seed).random((1, 7), dtype="float32"),
    )
    assert rows_per_image(settings, 1) == {"beam": 3, "greedy": 1, "nucleus": 1}.get(sampler, 4)
    decoded = decode(next, (), task)
    token_ids = ops.convert_to_numpy(decoded.token_ids)[0, 0]
    assert tuple(token_ids[1 : 1 + len(caption.token_ids)]) == caption.token_ids
    assert caption.score == pytest.approx(float(decoded.scores[0, 0]), abs=1e-4)
