"""Runs that train low-rank updates: what stays, what is exported, and how they go on."""

import numpy as np
import pytest
from gpt2_folders import SIZES, hugging_face_tensors, write_hugging_face_folder
from runs import assert_same_run, killed_in_epoch, last_checkpoint, read_checkpoint

from captioner.model import ImageCaptioner
from trainers.build import build_captioner
from trainers.checkpoint import CheckpointError, load_checkpoint
from trainers.run_folder import RunFolder
from trainers.stage_progress import train_parts_only
from trainers.stages import Stage, stage_settings

LORA = {"lora_rank": 3, "lora_alpha": 6.0, "lora_mlp": True}
RUN = LORA | {
    "epochs": 2,
    "validation_split": 0.3,
    "dropout": 0.2,
    "learning_rate": 1e-2,
    "ema_momentum": 0.9,
    "gradient_accumulation_steps": 2,
    "cache_features": True,
}


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory):
    """The folder of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    train(folder, **RUN)
    return folder


def weights(captioner):
    return {variable.path: np.asarray(variable.value) for variable in captioner.weights}


def test_checkpoints_hold_the_weights_as_they_came_and_the_updates(finished, settings, tiny_preset):
    captioner = build_captioner(settings(finished, **RUN), [])
    load_checkpoint(RunFolder(finished).checkpoints[0], captioner)
    before, after = weights(ImageCaptioner.from_preset(str(tiny_preset))), weights(captioner)
    updates = {path: value for path, value in after.items() if "lora" in path}
    assert len(updates) == 2 * 7 and all(np.abs(value).max() > 1e-3 for value in updates.values())
    in_the_decoder = [path for path in before if path.startswith("decoder")]
    assert len(in_the_decoder) > 20
    for path in in_the_decoder:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    assert any(not np.array_equal(after[path], before[path]) for path in before if "image_tokens" in path)


def test_the_exported_preset_is_one_without_updates_that_says_the_same(finished, settings, photos):
    captioner = build_captioner(settings(finished, **RUN), [])
    load_checkpoint(RunFolder(finished).best_checkpoint, captioner)
    exported = ImageCaptioner.from_preset(str(finished))
    assert not any("lora" in variable.path for variable in exported.variables)
    captions = [["a dog on the beach", "two cats"]]
    expected = captioner.score([photos / "0.png"], captions)[0]
    base = ImageCaptioner.from_preset(settings(finished).preset).score([photos / "0.png"], captions)[0]
    for found, wanted, before in zip(
        exported.score([photos / "0.png"], captions)[0], expected, base, strict=True
    ):
        assert found.log_prob == pytest.approx(wanted.log_prob, abs=1e-4)
        assert abs(wanted.log_prob - before.log_prob) > 1e-2


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(finished, train, tmp_path):
    with killed_in_epoch(2):
        train(tmp_path / "run", **RUN, checkpoint_steps=1)
    train(tmp_path / "run", **RUN, checkpoint_steps=1, resume=True)
    assert_same_run(tmp_path / "run", finished)


def test_another_rank_is_refused(finished, train, settings):
    with pytest.raises(
        ValueError, match=r"lora_rank: 3 -> 2\. Use the old ones, or begin a new run with --preset"
    ):
        train(finished, **RUN | {"lora_rank": 2}, resume=True)
    other = build_captioner(settings(finished, **RUN | {"lora_rank": 2}), [])
    with pytest.raises(
        CheckpointError, match=r"lora_kernel_a of shape \(\d+, 3\) where the model has .*, 2\)"
    ):
        load_checkpoint(RunFolder(finished).checkpoints[0], other)
    with pytest.raises(CheckpointError, match="belongs to another run or other settings"):
        load_checkpoint(last_checkpoint(finished), build_captioner(settings(finished), []))


def test_a_new_run_may_go_on_from_the_merged_preset_with_another_rank(finished, settings, tmp_path):
    captioner = build_captioner(settings(tmp_path, preset=str(finished), lora_rank=2), [])
    ranks = {v.shape[-1] for v in captioner.trainable_variables if v.path.endswith("lora_kernel_a")}
    assert ranks == {2}


def test_a_pretrained_gpt2_keeps_its_weights_and_its_new_cross_attention_is_trained_whole(settings, tmp_path):
    gpt2 = write_hugging_face_folder(
        tmp_path / "gpt2", SIZES["two_layers"], hugging_face_tensors(SIZES["two_layers"])
    )
    fresh = {"preset": None, "image_encoder_weights": "none", "image_size_px": 32, "num_image_layers": 1}
    decoder = build_captioner(
        settings(tmp_path / "run", gpt2=gpt2, stages=(), **fresh, **LORA), []
    ).backbone.decoder
    trained = {v.path for v in decoder.trainable_variables}
    assert {path for path in trained if "lora" not in path} == {
        v.path for block in decoder.blocks for layer in block.cross_attention_layers for v in layer.variables
    }
    assert {path.split("/")[-2] for path in trained if "lora" in path} == {
        "query_key_value", "self_attention_output", "mlp_intermediate", "mlp_output",
    }  # fmt: skip


def test_updates_are_trained_on_the_cider_of_drawn_captions(train, tmp_path):
    run = tmp_path / "run"
    train(run, **LORA, objective="self_critical", num_samples=2, cache_features=True)
    values, _ = read_checkpoint(last_checkpoint(run))
    assert all(np.isfinite(value).all() for value in values.values())


@pytest.mark.parametrize(
    "changes", [{"preset": None}, {"train_parts": ("image_blocks",)}], ids=["from scratch", "no part of it"]
)
def test_updates_without_pretrained_weights_are_refused(settings, tmp_path, changes):
    with pytest.raises(ValueError, match="`lora_rank` needs pretrained weights to stay as they are"):
        settings(tmp_path, lora_rank=2, **changes)


@pytest.mark.parametrize("flag", [{"lora_mlp": True}, {"lora_alpha": 8.0}])
def test_a_flag_of_lora_without_a_rank_is_refused(settings, tmp_path, flag):
    with pytest.raises(ValueError, match=f"`{next(iter(flag))}` belongs to `lora_rank`, which is 0"):
        settings(tmp_path, **flag)


def test_stages_share_the_updates_of_all_their_parts(settings, tmp_path, tiny_preset):
    stages = (Stage(train_parts=("image_blocks",)), Stage(train_parts=("decoder",)))
    staged = settings(tmp_path, preset=str(tiny_preset), **LORA, stages=stages)
    assert staged.lora_parts == ("decoder",)
    captioner = build_captioner(staged, [])
    first, second = stage_settings(staged)
    train_parts_only(first, captioner)
    assert not any("lora" in variable.path for variable in captioner.trainable_variables)
    train_parts_only(second, captioner)
    names = {variable.path.rpartition("/")[2] for variable in captioner.backbone.decoder.trainable_variables}
    assert names == {"lora_kernel_a", "lora_kernel_b"}


def test_stages_without_a_part_for_updates_are_refused(settings, tmp_path, tiny_preset):
    stages = (Stage(train_parts=("image_blocks",)),)
    with pytest.raises(ValueError, match="`lora_rank` needs pretrained weights to stay as they are"):
        settings(tmp_path, preset=str(tiny_preset), lora_rank=2, stages=stages)
