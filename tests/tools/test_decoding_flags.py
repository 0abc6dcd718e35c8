"""The flags of the decoding settings: which sampler they mean, and what they refuse."""

import dataclasses

import pytest

from captioner.sampling import DecodingSettings
from tools.caption import CaptionCommand
from tools.commands import COMMANDS
from tools.decoding_flags import DecodingFlags, choose_settings
from tools.errors import UsageError
from tools.evaluate import EvaluateCommand
from tools.main import main, parse


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ({}, DecodingSettings()),
        (
            {"num_beams": 3, "length_penalty": 0.0, "max_length": 12},
            DecodingSettings(num_beams=3, length_penalty=0.0, max_length=12),
        ),
        (
            {"top_p": 0.8, "temperature": 0.7, "seed": 7},
            DecodingSettings(sampler="nucleus", top_p=0.8, temperature=0.7, seed=7),
        ),
        ({"seed": 0}, DecodingSettings(sampler="nucleus")),
        ({"top_p": 0.9}, DecodingSettings(sampler="nucleus")),
        ({"top_k": 3}, DecodingSettings(sampler="nucleus", top_k=3)),
        (
            {"top_k": 3, "penalty_alpha": 0.5},
            DecodingSettings(sampler="contrastive", top_k=3, penalty_alpha=0.5),
        ),
        ({"sampler": "nucleus"}, DecodingSettings(sampler="nucleus")),
        ({"sampler": "greedy", "max_length": 9}, DecodingSettings(sampler="greedy", max_length=9)),
        ({"prompt": "a dog", "score_prompt": True}, DecodingSettings(prompt="a dog", score_prompt=True)),
        ({"required_words": ("dog", "cat")}, DecodingSettings(required_words=("dog", "cat"))),
    ],
)
def test_flags_choose_the_sampler(flags, settings):
    assert choose_settings(DecodingFlags(**flags)) == settings


@pytest.mark.parametrize(
    ("flags", "num_captions", "says"),
    [
        (
            {"top_p": 0.9, "num_beams": 3},
            1,
            "--top-p belongs to --sampler nucleus, and --num-beams to --sampler beam",
        ),
        (
            {"top_k": 3, "seed": 1, "penalty_alpha": 0.5},
            1,
            "--penalty-alpha belongs.*--seed to --sampler nucleus",
        ),
        (
            {"sampler": "beam", "seed": 1},
            1,
            "--seed belongs to --sampler nucleus, the sampler here is beam",
        ),
        ({"sampler": "beam", "top_k": 4}, 1, "--top-k belongs to --sampler nucleus or contrastive"),
        ({"sampler": "greedy", "num_beams": 3}, 1, "--num-beams belongs to --sampler beam"),
        ({"sampler": "greedy"}, 2, "greedy gives one caption"),
        ({"penalty_alpha": 0.5}, 2, "contrastive gives one caption"),
        ({}, 6, "Add --num-beams 6"),
        ({"top_p": 1.5}, 1, "`top_p` must be above 0"),
    ],
)
def test_contradicting_flags_are_a_usage_error(flags, num_captions, says):
    with pytest.raises(UsageError, match=says):
        choose_settings(DecodingFlags(**flags), num_captions)


@pytest.mark.parametrize(("words", "command"), [("caption", CaptionCommand), ("evaluate", EvaluateCommand)])
def test_every_setting_is_a_flag_with_its_help_and_default(words, command, capsys):
    assert main([words, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(DecodingSettings):
        assert f"--{field.name.replace('_', '-')} " in out
    assert "Most tokens of a caption, the prompt and the end token included. (default: 30)" in out
    assert "decoding." not in out and "None" not in out.split("--sampler", 1)[1]


def test_the_flags_of_a_command_line_are_read():
    (caption,) = [command for command in COMMANDS if command.words == ("caption",)]
    line = ["a.jpg", "--forbidden-words", "dog", "cat", "--score-prompt", "--prompt", "a", "--min-p", "0.1"]
    command = parse(caption, CaptionCommand, line)
    assert command.inputs == ("a.jpg",)
    assert choose_settings(command.decoding) == DecodingSettings(
        sampler="nucleus", forbidden_words=("dog", "cat"), score_prompt=True, prompt="a", min_p=0.1
    )
