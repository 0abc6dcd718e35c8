"""How settings that are no single word or number are written as flags."""

import typing

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

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
