"""The flags of the decoding settings, for every command that captions."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from typing import Annotated, Any, get_type_hints

import tyro

from captioner.sampling import DecodingSettings
from captioner.sampling.settings import FIELD_SAMPLERS, SAMPLERS
from tools.errors import UsageError

_ABOUT = (
    "Beam search is the default; another sampler is, where one of its flags is given. A preset may have defaults of its own, as "
    "the bundled one has for the length penalty."
)


def _field_help(settings: type) -> dict[str, str]:
    """The strings below the fields of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0].body
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _flags(settings: type) -> type:
    """A dataclass with the fields of `settings`, None where a flag is not given."""
    texts, types = _field_help(settings), get_type_hints(settings)
    fields = []
    for field in dataclasses.fields(settings):
        said = " ".join(field.default) if isinstance(field.default, tuple) else field.default
        hint = "" if said in ("", None) else f"(default: {said})"
        help = tyro.conf.arg(help=texts[field.name], help_behavior_hint=hint)
        if types[field.name] is bool:
            fields.append((field.name, Annotated[tyro.conf.FlagCreatePairsOff[bool], help], False))
        else:
            fields.append((field.name, Annotated[types[field.name] | None, help], None))
    return dataclasses.make_dataclass(
        "DecodingFlags",
        [(name, kind, dataclasses.field(default=default)) for name, kind, default in fields],
        namespace={"__doc__": _ABOUT, "__module__": __name__},
        frozen=True,
        kw_only=True,
    )


DecodingFlags = _flags(DecodingSettings)


def given_flags(flags: DecodingFlags) -> dict:
    """The values of the flags that were given."""
    values = dataclasses.asdict(flags)
    return {name: value for name, value in values.items() if value is not None and value is not False}


def choose_settings(flags: DecodingFlags, num_captions: int = 1) -> DecodingSettings:
    """The decoding settings that the flags mean.

    Raises:
        UsageError: If flags contradict each other or a value is impossible.
    """
    given = given_flags(flags)
    owners = {name: FIELD_SAMPLERS[name] for name in given if name in FIELD_SAMPLERS}
    sampler = given.get("sampler")
    if sampler is None:
        able = [s for s in SAMPLERS if all(s in names for names in owners.values())]
        if not able:
            pairs = itertools.combinations(owners, 2)
            first, other = next((a, b) for a, b in pairs if not set(owners[a]) & set(owners[b]))
            raise UsageError(
                f"{_flag(other)} belongs to --sampler {' or '.join(owners[other])}, and {_flag(first)} to --sampler "
                f"{' or '.join(owners[first])}. Leave one of them out."
            )
        sampler = able[0]
    for name, names in owners.items():
        if sampler not in names:
            raise UsageError(
                f"{_flag(name)} belongs to --sampler {' or '.join(names)}, the sampler here is {sampler}. "
                "Leave one of them out."
            )
    try:
        settings = DecodingSettings(**given | {"sampler": sampler})
    except ValueError as error:
        raise UsageError(str(error)) from error
    if sampler in ("greedy", "contrastive") and num_captions > 1:
        raise UsageError(
            f"--sampler {sampler} gives one caption; received --num-captions {num_captions}. "
            "Choose --sampler beam or nucleus."
        )
    if sampler == "beam" and num_captions > settings.num_beams:
        raise UsageError(
            f"--num-captions {num_captions} needs at least as many beams; received --num-beams "
            f"{settings.num_beams}. Add --num-beams {num_captions}."
        )
    return settings


def with_own_defaults(
    settings: DecodingSettings, flags: DecodingFlags, captioner: Any, num_captions: int = 1
) -> DecodingSettings:
    """The settings of beam search, with the preset's own where no flag says otherwise."""
    own = getattr(getattr(captioner, "preprocessor", None), "decoding", None)
    if not own or settings.sampler != "beam":
        return settings
    values = {name: value for name, value in own.items() if name not in given_flags(flags)}
    if num_captions > values.get("num_beams", num_captions):
        values["num_beams"] = num_captions
    return dataclasses.replace(settings, **values)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
