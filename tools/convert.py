"""The `captioner convert` commands."""

import dataclasses
import json
from pathlib import Path

import tyro

from captioner.files import atomic_path
from captioner.images.transform import ResizeMode
from tools.errors import UsageError
from tools.quiet import import_tensorflow

REPORT_FILE = "weights_report.json"
_NAMES_SHOWN = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSide:
    """The part of a converted captioner that GPT-2 does not have."""

    image_encoder: str = "efficientnet_v2_s"
    """Image encoder by name; see the README for the list."""
    image_encoder_weights: str = "imagenet"
    """imagenet, none (random), or a local file."""
    image_size_px: int = 400
    """Side of the square image that the encoder reads."""
    resize: ResizeMode = "stretch"
    """How a photo becomes square."""
    num_image_layers: int = 2
    """Bidirectional blocks over the image tokens."""
    dropout: float = 0.1
    """Dropout of image tokens and decoder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOpenaiCommand(ImageSide):
    """Makes a captioner preset of OpenAI's GPT-2, ready to be trained.

    The decoder is GPT-2 to the last digit; the image side and the cross-attention are fresh, and silent until they
    are trained. What became of each tensor is printed and stored in the preset.

    Example:
        captioner convert openai models/124M presets/gpt2_124m
        captioner train csv --preset presets/gpt2_124m --csv train.csv --images photos/ --run-dir runs/mine
    """

    folder: tyro.conf.Positional[Path]
    """Folder with checkpoint, model.ckpt.*, hparams.json, encoder.json and vocab.bpe."""
    out: tyro.conf.Positional[Path]
    """Preset folder to write; must not exist."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertHuggingFaceCommand(ImageSide):
    """Makes a captioner preset of a Hugging Face GPT-2, ready to be trained, or of a whole captioner, ready for use.

    Reads model.safetensors, whole or in shards, or tf_model.h5; pytorch_model.bin is refused. The decoder is GPT-2 to
    the last digit; the image side, and the cross-attention that most checkpoints lack, are fresh.

    A VisionEncoderDecoderModel of ViT or DeiT and GPT-2 is known by its config.json and converted whole: weights, image
    processing, tokenizer and decoding settings. The flags of the image side do not apply to it.

    Example:
        captioner convert huggingface gpt2/ presets/gpt2 --image-encoder efficientnet_v2_m
        captioner convert huggingface vit-gpt2-image-captioning/ presets/vit_gpt2
        captioner caption photo.jpg --preset presets/vit_gpt2
    """

    folder: tyro.conf.Positional[Path]
    """Folder with the weights, config.json, and vocab.json with merges.txt, or tokenizer.json."""
    out: tyro.conf.Positional[Path]
    """Preset folder to write; must not exist."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertToHuggingFaceCommand:
    """Writes a captioner's GPT-2 decoder as a folder that transformers opens with the same logits.

    The cross-attention goes along and takes our image tokens as encoder_hidden_states; the image encoder stays behind.

    Example:
        captioner convert --to huggingface runs/mine gpt2_of_mine/
    """

    preset: tyro.conf.Positional[str]
    """Bundled preset, preset folder or training run."""
    out: tyro.conf.Positional[Path]
    """Folder to write; must not exist."""


def convert_openai(command: ConvertOpenaiCommand) -> int:
    """Converts, and prints what became of the tensors."""
    if not (command.folder / "hparams.json").is_file():
        raise UsageError(
            f"{command.folder} has no hparams.json, so it is not OpenAI's; see `captioner convert -h`."
        )
    return _convert(command)


def convert_huggingface(command: ConvertHuggingFaceCommand) -> int:
    """Converts, and prints what became of the tensors."""
    if not (command.folder / "config.json").is_file():
        raise UsageError(
            f"{command.folder} has no config.json, so it is not Hugging Face's; see `captioner convert -h`."
        )
    require_new(command.out)
    import_tensorflow()
    from captioner.weights.hugging_face_captioner import is_hugging_face_captioner

    return _convert_captioner(command) if is_hugging_face_captioner(command.folder) else _convert(command)


def convert_to_huggingface(command: ConvertToHuggingFaceCommand) -> int:
    """Converts, and prints where the result is."""
    require_new(command.out)
    import_tensorflow()
    from captioner.model import ImageCaptioner
    from captioner.weights import export_gpt2

    export_gpt2(ImageCaptioner.from_preset(command.preset), command.out)
    print(
        f"Wrote {command.out}: transformers.GPT2LMHeadModel.from_pretrained({str(command.out)!r}) opens it."
    )
    return 0


def require_new(out: Path) -> None:
    """Refuses to write over something."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"`out` must not exist yet; received {out}. Remove it, or choose another name.")


def write_preset(captioner, report, out: Path) -> None:
    """Writes a preset with the report of its weights, whole or not at all, and prints a summary.

    Args:
        captioner: ImageCaptioner.
        report: AssignmentReport.
        out: folder that does not exist.
    """
    with atomic_path(out) as temporary:
        captioner.save_to_preset(str(temporary))
        text = json.dumps(dataclasses.asdict(report), indent=2)
        (temporary / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    print(
        f"{len(report.assigned)} tensors assigned, {len(report.ignored)} ignored, {len(report.new)} variables new."
    )
    for name, reason in list(report.ignored.items())[:_NAMES_SHOWN]:
        print(f"  ignored {name}: {reason}")
    if report.new:
        print(f"  new {report.new[0]} ... {report.new[-1]}: wait for training")
    print(f"Preset: {out} (every tensor is listed in {REPORT_FILE})")


def _convert_captioner(command: ConvertHuggingFaceCommand) -> int:
    from captioner.weights.deferred import DeferredVariables
    from captioner.weights.hugging_face_captioner import load_hugging_face_captioner

    for field in dataclasses.fields(ImageSide):
        if getattr(command, field.name) != field.default:
            raise UsageError(
                f"--{field.name.replace('_', '-')} does not apply: {command.folder} is a whole captioner, with an image side "
                "of its own. Leave it out."
            )
    with DeferredVariables():
        write_preset(*load_hugging_face_captioner(command.folder), command.out)
    return 0


def _convert(command: ConvertOpenaiCommand | ConvertHuggingFaceCommand) -> int:
    require_new(command.out)
    import_tensorflow()
    from captioner.weights.deferred import DeferredVariables
    from captioner.weights.gpt2 import build_captioner, load_gpt2

    with DeferredVariables():
        captioner, report = build_captioner(
            load_gpt2(command.folder),
            image_encoder=command.image_encoder,
            image_size=(command.image_size_px, command.image_size_px),
            image_encoder_weights=None
            if command.image_encoder_weights == "none"
            else command.image_encoder_weights,
            num_image_layers=command.num_image_layers,
            dropout=command.dropout,
            resize=command.resize,
        )
        write_preset(captioner, report, command.out)
    return 0
