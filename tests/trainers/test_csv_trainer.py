"""What a table becomes before training starts: splits, captions as trained, sources, and refusals."""

import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from captioner.model import ImageCaptioner
from trainers import csv_trainer
from trainers.caption_sets import normalize_caption
from trainers.csv_settings import CsvTrainSettings
from trainers.csv_trainer import train_csv
from trainers.feature_cache import FeatureCache
from trainers.pipeline import ImageFiles


@pytest.fixture
def prepared(settings, monkeypatch, tmp_path):
    """Function `(**changes)` that gives what the loop would be handed: captioner and TrainingData."""
    handed = []
    monkeypatch.setattr(
        csv_trainer,
        "train",
        lambda settings, run, captioner, make_data, workers: handed.append((captioner, make_data(settings))),
    )

    def prepare(**changes):
        train_csv(settings(tmp_path / "run", **changes))
        return handed.pop()

    return prepare


def images_and_captions(captioner, batches):
    """Captions as the model reads them: for each image of the batches the set of its texts."""
    decode = captioner.preprocessor.tokenizer.decode
    return [
        {decode(ids[1 : int(mask.sum())]) for ids, mask, w in zip(*texts, strict=True) if w.any()}
        for x, _, weight in batches.as_numpy_iterator()
        for texts in zip(x["token_ids"], x["padding_mask"], weight, strict=True)
    ]


def coco(path, ids):
    """COCO captions of those photos, one each."""
    content = {
        "images": [{"id": 7 + i, "file_name": f"{i}.png"} for i in ids],
        "annotations": [{"id": i, "image_id": 7 + i, "caption": f"A dog {i}. "} for i in ids],
    }
    path.write_text(json.dumps(content))
    return path


def karpathy(path):
    """Photos 0-5 to train, 6-7 as restval, 8 to validate, 9 to test."""
    names = ["train"] * 6 + ["restval"] * 2 + ["val", "test"]
    images = [
        {
            "filename": f"{i}.png",
            "split": split,
            "sentences": [{"raw": f"a dog {i}"}, {"raw": f"two cats {i}"}],
        }
        for i, split in enumerate(names)
    ]
    path.write_text(json.dumps({"images": images, "dataset": "photos"}))
    return path


def test_a_karpathy_file_of_any_name_trains_on_train_and_validates_on_val(prepared, tmp_path):
    captioner, data = prepared(csv=karpathy(tmp_path / "captions_of_mine.json"))
    assert data.num_images == 8 and data.num_captions == 16
    assert [path[-5:] for path in data.validation_paths] == ["8.png"]
    assert data.validation_references == (("a dog 8", "two cats 8"),)
    assert images_and_captions(captioner, data.validation) == [{"a dog 8", "two cats 8"}]
    shown = images_and_captions(captioner, data.training(0))
    assert len(shown) == 8 and {"a dog 9", "two cats 9"} not in shown


def test_a_table_with_a_split_column_is_split_by_it(prepared, photos, tmp_path):
    rows = [f"{i}.png,a dog {i},{split}" for i, split in enumerate(["train", "train", "test", "dev"])]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["file,caption,split", *rows]))
    _, data = prepared(csv=table, patience=2)
    assert data.num_images == 2
    assert data.validation_references == (("a dog 3",),)
    with pytest.raises(ValueError, match="`patience` needs validation images"):
        prepared(csv=table, split="test", patience=2)


def test_a_validation_split_of_a_karpathy_file_leaves_val_and_test_alone(prepared, tmp_path):
    _, data = prepared(csv=karpathy(tmp_path / "k.json"), validation_split=0.25)
    assert (data.num_images, len(data.validation_paths)) == (6, 2)
    assert not {"8.png", "9.png"} & {path[-5:] for path in data.validation_paths}


def test_another_split_is_trained_on_when_it_is_asked_for(prepared, tmp_path):
    _, data = prepared(csv=karpathy(tmp_path / "k.json"), split="test")
    assert (data.num_images, data.validation_paths) == (1, ())
    _, data = prepared(csv=karpathy(tmp_path / "k.json"), split="all", validation_split=0.2)
    assert (data.num_images, len(data.validation_paths)) == (8, 2)


def test_coco_captions_train_and_validate(prepared, tmp_path):
    captioner, data = prepared(
        csv=coco(tmp_path / "train.json", range(7)),
        validation_csv=coco(tmp_path / "val.json", (7, 8)),
        lowercase=True,
    )
    assert data.num_images == 7
    assert data.validation_references == (("a dog 7",), ("a dog 8",))
    assert {"a dog 3"} in images_and_captions(captioner, data.training(0))


def test_coco_and_karpathy_files_train_from_start_to_end(train, tmp_path):
    tables = {
        "coco": {
            "csv": coco(tmp_path / "train.json", range(7)),
            "validation_csv": coco(tmp_path / "val.json", (7, 8)),
        },
        "karpathy": {"csv": karpathy(tmp_path / "dataset.json")},
    }
    for name, files in tables.items():
        best = train(tmp_path / name, **files, num_validation_captions=0)
        assert best["val_loss"] > 0 and "val_cider" in best
        captioner = ImageCaptioner.from_preset(str(tmp_path / name))
        assert captioner.preprocessor.tokenizer.vocabulary_size() == 280


def test_the_validation_split_is_by_image_and_the_same_each_time(prepared):
    _, data = prepared(validation_split=0.3)
    assert (data.num_images, len(data.validation_paths), data.steps_per_epoch) == (7, 3, 3)
    assert prepared(validation_split=0.3)[1].validation_paths == data.validation_paths
    assert prepared(validation_split=0.3, seed=1)[1].validation_paths != data.validation_paths
    counts = {
        int(path[-5]): len(texts)
        for path, texts in zip(data.validation_paths, data.validation_references, strict=True)
    }
    assert counts == {index: 1 + index % 3 for index in counts}


def test_captions_that_an_image_does_not_have_weigh_nothing(prepared):
    _, data = prepared(captions_per_image=3, batch_size=10)
    x, _, weight = next(data.training(0).as_numpy_iterator())
    assert sorted(weight.any(-1).sum(-1)) == [1] * 4 + [2] * 3 + [3] * 3
    assert x["padding_mask"].any(-1).all()  # a blank caption still has something to attend to
    assert data.num_captions == 19


def test_lower_case_drops_the_full_stop_and_captions_that_become_equal():
    assert normalize_caption("  A Dog \n runs. ", lowercase=True) == "a dog runs"
    assert normalize_caption("  A Dog \n runs. ", lowercase=False) == "A Dog runs."
    assert normalize_caption(" . ", lowercase=True) == "."


def test_equal_captions_of_an_image_count_once(prepared, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("image,caption\n0.png,A dog.\n0.png,a dog\n1.png,A dog\n")
    assert prepared(csv=table, lowercase=True)[1].num_captions == 2
    assert prepared(csv=table)[1].num_captions == 3


def test_the_fingerprint_changes_with_captions_and_images_and_not_with_their_folder(
    prepared, photos, tmp_path
):
    table = tmp_path / "table.csv"

    def fingerprint(rows, **changes):
        table.write_text(f"image,caption\n{rows}\n")
        return prepared(csv=table, **changes)[1].fingerprints

    first = fingerprint("0.png,a dog\n1.png,a cat")
    assert fingerprint("0.png,a dog\n1.png,a cat") == first
    assert fingerprint(f"{photos / '0.png'},a dog\n1.png,a cat") == first
    others = [fingerprint(f"0.png,a dog\n{row}")["training"] for row in ("1.png,two cats", "2.png,a cat")]
    assert len({first["training"], *others}) == 3


def test_the_fingerprint_changes_with_a_photo_replaced_under_its_name_and_not_with_a_copy(
    prepared, photos, tmp_path
):
    copy = shutil.copytree(photos, tmp_path / "copy", copy_function=shutil.copyfile)  # with the time of now
    changes = {"csv": copy / "captions.csv", "images": copy}
    first = prepared()[1].fingerprints
    assert prepared(**changes)[1].fingerprints == first
    Image.new("RGB", (14, 12)).save(copy / "1.png")
    assert prepared(**changes)[1].fingerprints["training"] != first["training"]


def test_features_are_cached_with_their_views_in_training_only(prepared, monkeypatch):
    sources = []
    original = csv_trainer._image_source
    monkeypatch.setattr(
        csv_trainer, "_image_source", lambda *arguments: sources.append(original(*arguments)) or sources[-1]
    )
    prepared(validation_split=0.3, cache_features=True, cache_views=3, horizontal_flip=True)
    assert [type(source) for source in sources] == [FeatureCache, FeatureCache]
    assert [source.num_views for source in sources] == [3, 1]
    sources.clear()
    prepared(validation_split=0.3, min_crop_area=0.5)
    assert [type(source) for source in sources] == [ImageFiles, ImageFiles]
    assert sources[0].augmentation.min_crop_area == 0.5 and sources[1].augmentation is None


def test_the_chosen_parts_are_trained_and_no_others(prepared):
    captioner, _ = prepared(train_parts=("cross_attention",))
    paths = {variable.path for variable in captioner.trainable_variables}
    assert paths and all("cross_attention" in path or "special" in path for path in paths)
    captioner, _ = prepared(train_parts=("image_encoder",), frozen_until="cells")
    layers = {v.path.split("/")[-2] for v in captioner.backbone.image_encoder.trainable_variables}
    assert layers == {"mix"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 8}, "`hidden_dim` is fixed by the preset"),
        ({"resize": "pad"}, "`resize` is fixed by the preset"),
        ({"train_tokenizer": 300}, "`train_tokenizer` is fixed by the preset"),
        ({"image_encoder_weights": "none"}, "`image_encoder_weights` is fixed by the preset"),
        ({"max_length": 18}, "`max_length` must be at most 17, the text positions of the model"),
        ({"train_parts": ("image_encoder",), "frozen_until": "none"}, "`frozen_until` must be a layer"),
        ({"preset": None, "architecture": "none"}, "must be one of gpt2_124m"),
    ],
)
def test_settings_that_contradict_the_model_are_refused(prepared, changes, message):
    with pytest.raises(ValueError, match=message):
        prepared(**changes)


def test_an_architecture_with_a_keras_encoder_learns_a_vocabulary_and_trains_a_step(
    settings, photos, tmp_path
):
    given = settings(tmp_path).to_dict()
    best = train_csv(
        CsvTrainSettings(
            run_dir=tmp_path / "run",
            csv=photos / "captions.csv",
            cache_dir=given["cache_dir"],
            image_encoder="resnet50",
            image_encoder_weights="none",
            image_size_px=64,
            hidden_dim=16,
            num_heads=2,
            num_layers=1,
            num_image_layers=0,
            train_tokenizer=270,
            max_length=9,
            batch_size=10,
            epochs=1,
            weights_dtype="float16",
            cache_features=True,
        )
    )
    assert np.isfinite(best["loss"])
    stored = tmp_path / "run" / "preset" / "model.weights.h5"
    captioner = ImageCaptioner.from_preset(str(tmp_path / "run"))
    assert stored.stat().st_size < 2.2 * captioner.count_params()  # two bytes for each number
    assert captioner.backbone.image_size == (64, 64)
    assert captioner.preprocessor.tokenizer.vocabulary_size() <= 270
    assert keras.backend.standardize_dtype(captioner.variables[0].dtype) == "float32"
    assert len(captioner.caption([photos / "0.png"])[0]) == 1
