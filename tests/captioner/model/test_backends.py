"""One preset on TensorFlow, JAX and PyTorch: the same logits, the same captions, the same generated text."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_captioner import random_batch, random_images, tiny_captioner

pytestmark = pytest.mark.oracle

SCRIPT = """
import json, sys
import keras, numpy as np
from captioner.model import ImageCaptioner
from captioner.sampling import DecodingSettings

folder = sys.argv[1]
assert keras.config.backend() == sys.argv[2], keras.config.backend()
data = np.load(f"{folder}/batch.npz")
model = ImageCaptioner.from_preset(f"{folder}/preset")
inputs = {key: data[key] for key in ("images", "token_ids", "padding_mask")}
logits = keras.ops.convert_to_numpy(model(inputs, training=False))
if keras.config.backend() == "torch":  # else each step would copy them
    keys_values = model.backbone.decoder.image_keys_values(model.backbone.encode_images(inputs["images"]))
    assert all(part.is_contiguous() for block in keys_values for part in block)
captions = {}
words = dict(forbidden_words=("runs",), min_length=3, no_repeat_ngram_size=2, repetition_penalty=1.2)
for name, num_captions, sampler in (
    ("beam", 2, DecodingSettings(num_beams=3, max_length=7)),
    ("controls", 2, DecodingSettings(num_beams=4, max_length=12, prompt="a", required_words=("dog",), **words)),
    ("groups", 2, DecodingSettings(num_beams=4, num_beam_groups=2, diversity_penalty=1.0, max_length=7)),
    ("greedy", 1, DecodingSettings(sampler="greedy", max_length=7)),
    ("nucleus", 2, DecodingSettings(sampler="nucleus", top_p=0.9, top_k=50, min_p=0.01, max_length=7, prompt="two")),
    ("contrastive", 1, DecodingSettings(sampler="contrastive", max_length=7, **words)),
):
    found = model.caption(list(data["photos"]), sampler, num_captions)
    captions[name] = [[[c.token_ids, c.log_prob] for c in cs] for cs in found]
model.compile(sampler=DecodingSettings(sampler="greedy"), jit_compile=False)
texts = model.generate({"images": data["photos"]}, max_length=8)
model.compile(optimizer=keras.optimizers.SGD(1e-3), jit_compile=False)
x, y, weight = model.preprocessor({"images": data["photos"], "captions": ["a dog", "two cats"]})
model.preprocessor = None
losses = [float(model.train_on_batch(x, y, weight, return_dict=True)["loss"]) for _ in range(2)]
np.savez(f"{folder}/{sys.argv[2]}.npz", logits=logits, said=json.dumps([captions, texts, losses]))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A function from a backend to `(logits, captions, texts, losses)`; each runs in a process of its own."""
    folder, done = tmp_path_factory.mktemp("backends"), {}
    model = tiny_captioner()
    model.save_to_preset(str(folder / "preset"))
    np.savez(folder / "batch.npz", photos=random_images(2), **random_batch(model, 2, 3, 6))

    def run(backend):
        if backend not in done:
            command = [sys.executable, "-c", SCRIPT, str(folder), backend]
            environment = os.environ | {
                "KERAS_BACKEND": backend,
                "CUDA_VISIBLE_DEVICES": "",
                "JAX_PLATFORMS": "cpu",
            }
            result = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr[-4000:]
            with np.load(folder / f"{backend}.npz") as saved:
                done[backend] = (saved["logits"], *json.loads(str(saved["said"])))
        return done[backend]

    return run


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_preset_says_the_same_on_another_backend(results, backend):
    pytest.importorskip(backend, reason='needs pip install "captioner[oracle]"')
    logits, captions, texts, losses = results(backend)
    expected_logits, expected_captions, expected_texts, expected_losses = results("tensorflow")
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4, rtol=1e-5)
    assert texts == expected_texts
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    for sampler, expected in expected_captions.items():
        for found, wanted in zip(captions[sampler], expected, strict=True):
            assert [ids for ids, _ in found] == [ids for ids, _ in wanted]
            np.testing.assert_allclose([p for _, p in found], [p for _, p in wanted], atol=1e-3)
