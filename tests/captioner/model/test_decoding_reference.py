"""Our decoding against Hugging Face's `generate` on one random tiny GPT-2 with cross-attention."""

import keras
import numpy as np
import pytest
from hugging_face import POSITIONS, D, copied_decoder, random_gpt2

from captioner.sampling import DecodingSettings
from captioner.sampling.decode import decode, rows_per_image
from captioner.sampling.task import Task

pytestmark = pytest.mark.oracle

START, END = 0, 1
NUM_IMAGES, NUM_IMAGE_TOKENS = 6, 5
IMAGE_TOKENS = np.random.default_rng(0).normal(0, 2, (NUM_IMAGES, NUM_IMAGE_TOKENS, D)).astype("float32")


@pytest.fixture(scope="module")
def reference():
    torch = pytest.importorskip("torch", reason='needs pip install "captioner[oracle]"')
    pytest.importorskip("transformers", reason='needs pip install "captioner[oracle]"')
    model = random_gpt2(END)
    with torch.no_grad():  # captions that are sure of their words, and that end
        model.transformer.ln_f.weight *= 2
        model.transformer.wte.weight[END] += model.transformer.ln_f.bias
    return model


@pytest.fixture(scope="module")
def decoder(reference):
    return copied_decoder(reference)


def theirs(model, num_captions, **options):
    import torch

    generated = model.generate(
        input_ids=torch.full((NUM_IMAGES, 1), START),
        encoder_hidden_states=torch.tensor(IMAGE_TOKENS),
        attention_mask=torch.ones((NUM_IMAGES, 1), dtype=torch.int64),
        max_length=POSITIONS,
        num_return_sequences=num_captions,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    sequences = generated.sequences.numpy().reshape(NUM_IMAGES, num_captions, -1)
    scores = getattr(generated, "sequences_scores", None)
    return sequences, None if scores is None else scores.numpy().reshape(NUM_IMAGES, num_captions)


def ours(decoder, settings, num_captions):
    image_keys_values = decoder.image_keys_values(IMAGE_TOKENS)

    def next(token_ids, cache, index):
        last = keras.ops.slice(token_ids, (0, index - 1), (token_ids.shape[0], 1))
        hidden, cache, _ = decoder.decode(last, cache, index - 1, image_keys_values)
        return decoder.logits(hidden[:, 0]), hidden[:, 0], cache

    prompt = np.full((NUM_IMAGES, POSITIONS), END, "int32")
    prompt[:, 0] = START
    task = Task(
        prompt=keras.ops.convert_to_tensor(prompt),
        prompt_mask=keras.ops.convert_to_tensor(np.tile(np.arange(POSITIONS) == 0, (NUM_IMAGES, 1))),
        first_index=1,
        end_token_ids=(END,),
        pad_token_id=END,
        settings=settings,
        num_captions=num_captions,
    )
    cache = decoder.empty_cache(NUM_IMAGES, rows_per_image(settings, num_captions), POSITIONS)
    decoded = decode(next, cache, task, decoder.move_rows)
    return tuple(keras.ops.convert_to_numpy(x) for x in (decoded.token_ids, decoded.scores))


def assert_same(found, expected):
    (token_ids, scores), (sequences, their_scores) = found, expected
    np.testing.assert_array_equal(token_ids[:, :, : sequences.shape[2]], sequences)
    assert (token_ids[:, :, sequences.shape[2] :] == END).all()
    if their_scores is not None:
        np.testing.assert_allclose(scores, their_scores, atol=1e-4)


CONTROLS = [
    {},
    {"length_penalty": 0.0},
    {"length_penalty": 1.0},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.8},
    {"min_length": 5},
    {"min_length": 8, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2, "length_penalty": 1.6},
]


@pytest.mark.parametrize("controls", CONTROLS, ids=str)
@pytest.mark.parametrize("num_beams", [2, 3, 4, 5])
@pytest.mark.parametrize("early_stopping", ["exact", "likely", "first"])
def test_beam_search_finds_the_same_captions_and_scores(
    reference, decoder, controls, num_beams, early_stopping
):
    settings = DecodingSettings(num_beams=num_beams, early_stopping=early_stopping, **controls)
    rule = {"exact": "never", "likely": False, "first": True}[early_stopping]
    options = {"length_penalty": settings.length_penalty} | controls
    num_captions = {2: 2, 3: 1, 4: 4, 5: 2}[num_beams]
    expected = theirs(
        reference, num_captions, num_beams=num_beams, early_stopping=rule, do_sample=False, **options
    )
    assert_same(ours(decoder, settings, num_captions), expected)


@pytest.mark.parametrize("controls", [c for c in CONTROLS if "length_penalty" not in c], ids=str)
def test_greedy_and_one_beam_find_the_same_captions(reference, decoder, controls):
    expected = theirs(reference, 1, do_sample=False, **controls)
    assert_same(ours(decoder, DecodingSettings(sampler="greedy", **controls), 1), expected)
    if "repetition_penalty" not in controls:  # of log-probabilities in a beam search, of logits in greedy
        one_beam = DecodingSettings(num_beams=1, early_stopping="first", **controls)
        assert_same(ours(decoder, one_beam, 1), expected)


def test_the_captions_differ_between_images_and_in_length(decoder):
    token_ids, _ = ours(decoder, DecodingSettings(), 5)
    assert len(np.unique(token_ids[:, 0], axis=0)) > 3
    assert len(np.unique((token_ids == END).sum(axis=-1))) > 3
