"""How settings that are no single word or number are written as flags."""

import typing

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from trainers.stages import NAMED_STAGES, Stage

FLAGS = ConstructorRegistry()
"""Rules for `tyro.cli`."""


@FLAGS.primitive_rule
def _numbers_by_name(info) -> PrimitiveConstructorSpec | None:
    """`--rate-scales image_encoder=0.1 decoder=0.5` for a dict from names to numbers."""
    if typing.get_origin(info.type) is not dict:
        return None
    key_type, _ = typing.get_args(info.type)
    names = typing.get_args(key_type)

    def parse(words: list[str]) -> dict[str, float]:
        numbers = {}
        for word in words:
            name, _, number = word.partition("=")
            if name not in names:
                raise ValueError(f"{word!r} must be NAME=NUMBER with one of the names {', '.join(names)}")
            numbers[name] = float(number)
        return numbers

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="PART=NUMBER ...",
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{name}={number:g}" for name, number in value.items()],
    )


@FLAGS.primitive_rule
def _no_flags_of_a_stage(info) -> PrimitiveConstructorSpec | None:
    """One stage has no flags of its own, which tyro would make for each field of each stage of a file."""
    if info.type is not Stage:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="STAGE",
        instance_from_str=lambda words: Stage(),
        is_instance=lambda value: isinstance(value, Stage),
        str_from_instance=lambda stage: [str(stage.changes)],
    )


@FLAGS.primitive_rule
def _stages_by_name(info) -> PrimitiveConstructorSpec | None:
    """`--stages gpt2`, and `--stages none` for none."""
    if info.type != tuple[Stage, ...] | None:
        return None
    choices = {"none": ()} | NAMED_STAGES

    def name(stages: tuple[Stage, ...] | None) -> str:
        if stages is None:
            return "gpt2 with --gpt2, else none"
        return next(
            (name for name, known in choices.items() if known == stages), f"{len(stages)} of the file"
        )

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(choices) + "}",
        instance_from_str=lambda words: choices[words[0]],
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda stages: [name(stages)],
        choices=tuple(choices),
    )
