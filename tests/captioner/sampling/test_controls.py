"""No control is ever violated, in any sampler, with any of the others beside it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import END, World, decode_worlds

from captioner.sampling import DecodingSettings

SAMPLERS = [
    ({"num_beams": 1}, 1),
    ({"num_beams": 3}, 3),
    ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7}, 2),
    ({"sampler": "greedy"}, 1),
    ({"sampler": "nucleus", "top_p": 0.95, "min_p": 0.01, "temperature": 1.5}, 2),
    ({"sampler": "contrastive", "top_k": 3}, 1),
]


@pytest.mark.parametrize(("sampler", "num_captions"), SAMPLERS, ids=str)
@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 999),
    length=st.integers(2, 8),
    min_length=st.integers(0, 7),
    no_repeat_ngram_size=st.integers(0, 3),
    repetition_penalty=st.floats(0.5, 2.0),
    prompt=st.lists(st.integers(0, 8), max_size=3),
)
def test_every_caption_keeps_to_its_controls(
    sampler, num_captions, seed, length, min_length, no_repeat_ngram_size, repetition_penalty, prompt
):
    prompt = (0, *prompt)[: length - 1]
    controls = DecodingSettings(
        min_length=min(min_length, length - 1),
        max_length=length - 1,
        no_repeat_ngram_size=no_repeat_ngram_size,
        repetition_penalty=repetition_penalty,
        **sampler,
    )
    worlds = [World(seed, 11), World(seed + 1, 11)]
    found = decode_worlds(worlds, controls, num_captions, length=length, prompts=[prompt, (0,)])
    for given_tokens, captions in zip([prompt, (0,)], found, strict=True):
        for caption in captions:
            tokens = caption.tokens
            assert tokens[: len(given_tokens)] == given_tokens
            assert END not in tokens[len(given_tokens) : -1]  # nothing behind the end
            assert len(tokens) == length or tokens[-1] == END
            assert len(tokens) - 1 >= controls.min_length
            ngrams = [
                tokens[i - no_repeat_ngram_size : i] for i in range(no_repeat_ngram_size, len(tokens) + 1)
            ]
            for place, ngram in enumerate(ngrams):
                new = place + no_repeat_ngram_size > len(given_tokens) and ngram[-1:] != (END,)
                assert not new or not no_repeat_ngram_size or ngram not in ngrams[:place]
