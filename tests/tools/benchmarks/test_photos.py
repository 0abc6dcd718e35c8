"""The folder of photos in the decoding benchmark: its worker, the steps that it counts, its part of the report."""

import sys

import pytest
from fake_worker import FakeWorker
from PIL import Image
from tiny_captioner import random_images, tiny_captioner

from tools.benchmarks import measure
from tools.benchmarks.measure import measure_photos
from tools.benchmarks.photos import idle_share, steps_of_images
from tools.benchmarks.photos_report import photos_section
from tools.benchmarks.worker import Worker


class PhotosWorker(FakeWorker):
    """Answers at once: twice as fast in bfloat16, if this processor has it."""

    has_bfloat16 = True

    def __init__(self, python, module, configuration):
        super().__init__(python, module, configuration)
        dtype = configuration["dtype"] if self.has_bfloat16 else "float32"
        self.about = {"versions": {"keras": "3"}, "dtype": dtype}
        self.rate = 2 if dtype == "bfloat16" else 1

    def measure(self):
        num_photos, rate = self.configuration["num_photos"], self.rate
        return {
            "folder": {
                "num_photos": num_photos, "reading_seconds": 2.0, "model_seconds": 10.0 / rate, "both_seconds": 12.5 / rate,
                "share_of_slower": 0.8,
            },
            "first_captions": {
                "seconds": {"1": 3.0 / rate, "2": 4.0, "10": 5.0}, "processor_seconds": {"1": 6.0, "2": 7.0, "10": 8.0},
            },
            "idle_rows": {"num_photos": num_photos, "idle_share": 0.25, "whole_idle_share": 0.3},
        }[self.configuration["part"]]  # fmt: skip


COMMON = {"photos": "photos", "num_photos": 50, "preset": "p", "batch_size": 4, "num_threads": 1}


def test_the_report_has_rates_first_captions_and_idle_rows(monkeypatch):
    monkeypatch.setattr(measure, "Worker", PhotosWorker)
    measured = measure_photos(COMMON, dtypes=("float32", "bfloat16"), repetitions=3, versions={})
    text = "\n".join(photos_section(measured))
    assert "| float32 | 50 | 25.0 | 5.0 | 4.0 | 80% |" in text
    assert "| bfloat16 | 50 | 25.0 | 10.0 | 8.0 | 80% |" in text
    assert "| float32 | 3.0 (6.0) | 4.0 (7.0) | 5.0 (8.0) | - |" in text
    assert "| bfloat16 | 1.5 (6.0) | 4.0 (7.0) | 5.0 (8.0) | - |" in text
    assert "25% go to photos whose captions are settled already; it would be 30% if batches were not" in text


def test_a_dtype_that_is_slow_here_is_left_out(monkeypatch):
    monkeypatch.setattr(measure, "Worker", PhotosWorker)
    monkeypatch.setattr(PhotosWorker, "has_bfloat16", False)
    measured = measure_photos(COMMON, dtypes=("float32", "bfloat16"), repetitions=1, versions={})
    assert list(measured["folder"]) == list(measured["first_captions"]) == ["float32"]


def test_rows_are_idle_from_their_last_step_to_the_last_of_their_batch():
    # Batches (3, 5), (4, 2) and (6): 10 + 8 + 6 row-steps for 20.
    assert idle_share([3, 5, 4, 2, 6], batch_size=2) == pytest.approx(4 / 24)
    assert idle_share([3, 3], batch_size=2) == 0
    steps = [9, 1, 2, 3, 4, 5, 6, 7, 8]  # 9 until 5, then 4 until 9, as five are done by then
    assert idle_share(steps, batch_size=9) == pytest.approx(1 - 45 / (9 * 5 + 4 * 4))
    assert idle_share(steps, batch_size=9, is_halved=False) == pytest.approx(1 - 45 / 81)


def test_the_steps_of_a_greedy_caption_are_its_tokens():
    images = random_images(6)
    model = _greedy_captioner()
    # Its random weights never end a caption: a token that it says becomes the end.
    end = model.caption(list(images))[0][0].token_ids[2]
    model = _greedy_captioner()
    model.preprocessor.tokenizer.end_token_id = end
    lengths = [len(caption.token_ids) for [caption] in model.caption(list(images))]
    assert len(set(lengths)) > 1
    decode = model.backbone.decoder.decode
    assert steps_of_images(model, [model.preprocessor.prepare_images([image]) for image in images]) == lengths
    assert model.backbone.decoder.decode == decode


def _greedy_captioner():
    model = tiny_captioner()
    model.preprocessor.decoding = {"sampler": "greedy", "max_length": 9}
    return model


@pytest.mark.parametrize("part", ["folder", "first_captions"])
def test_a_worker_measures_the_photos_that_can_be_read(part, tmp_path):
    _greedy_captioner().save_to_preset(str(tmp_path / "preset"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, image in enumerate(random_images(4)):
        Image.fromarray(image).save(photos / f"{index}.png")
    (photos / "1.png").write_bytes(b"no photo")
    configuration = COMMON | {
        "photos": str(photos), "num_photos": 3, "preset": str(tmp_path / "preset"), "dtype": "float32", "part": part,
    }  # fmt: skip
    with Worker(sys.executable, measure.PHOTOS, configuration) as worker:
        answer = worker.measure()
    assert worker.about["dtype"] == "float32"
    if part == "folder":
        assert answer["num_photos"] == 2
        slower = max(answer["reading_seconds"], answer["model_seconds"])
        assert answer["share_of_slower"] == pytest.approx(slower / answer["both_seconds"])
    else:
        assert answer["seconds"].keys() == answer["processor_seconds"].keys() == {"1", "2"}
        assert 0 < answer["seconds"]["1"] < answer["seconds"]["2"]
