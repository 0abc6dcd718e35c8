"""Architectures by name, and what a user may call a preset."""

import pytest

from captioner.model import ARCHITECTURES, architecture
from captioner.model.presets import resolve_preset
from captioner.resources import DEFAULT_PRESET, list_bundled_presets

GPT2_SIZES = {  # Radford et al., 2019, table 2, and the checkpoints' heads
    "124m": (768, 12, 12),
    "355m": (1024, 16, 24),
    "774m": (1280, 20, 36),
    "1558m": (1600, 25, 48),
}


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.startswith("gpt2")])
def test_gpt2_architectures_have_gpt2s_sizes(name):
    arguments = architecture(name)
    sizes = tuple(arguments[key] for key in ("hidden_dim", "num_heads", "num_layers"))
    assert sizes == GPT2_SIZES[name.split("_")[1]]
    assert (arguments["vocabulary_size"], arguments["max_sequence_length"]) == (50257, 1024)
    assert arguments["image_size"] == (400, 400)
    assert arguments["image_encoder"] == name[-len("efficientnet_v2_s") :]


def test_the_two_published_recipes_have_two_and_eight_image_blocks():
    assert architecture("gpt2_124m_efficientnet_v2_s")["num_image_layers"] == 2
    assert architecture("gpt2_355m_efficientnet_v2_m")["num_image_layers"] == 8


def test_arguments_may_differ_without_touching_the_architecture():
    changed = architecture("small_efficientnet_lite0", dropout=0.25, num_layers=7)
    assert (changed["dropout"], changed["num_layers"]) == (0.25, 7)
    assert architecture("small_efficientnet_lite0")["num_layers"] == 3


def test_an_unknown_architecture_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"must be one of gpt2_124m.*received 'gpt3'"):
        architecture("gpt3")


def test_a_preset_folder_and_the_run_folder_around_it_are_found(tmp_path):
    run = tmp_path / "runs" / "mine"
    (run / "preset").mkdir(parents=True)
    (run / "preset" / "config.json").write_text("{}")
    assert resolve_preset(run / "preset") == resolve_preset(run) == str(run / "preset")
    (run / "config.json").write_text("{}")  # the run's own settings
    assert resolve_preset(run) == str(run / "preset")


def test_handles_are_left_to_kerashub():
    assert resolve_preset("hf://user/model") == "hf://user/model"


def test_bundled_presets_are_found_by_name():
    assert DEFAULT_PRESET in list_bundled_presets()
    for name in list_bundled_presets():
        assert resolve_preset(name).endswith(name)


def test_what_is_no_preset_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no preset \(config\.json\)"):
        resolve_preset(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"neither a folder nor a bundled preset.*Bundled presets:"):
        resolve_preset("flicker8k")
