"""What a training run can be told, whatever its data come from."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from captioner.images import Augmentation
from captioner.images.transform import ResizeMode
from trainers.settings_rules import check_settings
from trainers.stages import Part, Stage, stage_settings, stages_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of every trainer. The defaults suit a few thousand images on a laptop."""

    run_dir: Path
    """Folder of the run: config, metrics, checkpoints, plots and the exported preset."""
    resume: bool = False
    """Goes on from the last checkpoint of `run_dir`, to the bit as if the run had never stopped."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints within an epoch, which has one at its end in any case; 0 for none."""
    checkpoint_steps: int = 0
    """Steps between checkpoints, instead of minutes."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept, the best epoch's not counted. Should the last be damaged, --resume takes the one before."""

    architecture: str = "small_efficientnet_lite0"
    """Named architecture to train from scratch; see the README for the list."""
    preset: str | None = None
    """Captioner to fine-tune instead: a bundled preset, a preset folder or an earlier run."""
    gpt2: Path | None = None
    """Folder with a pretrained GPT-2 of OpenAI or Hugging Face for the decoder; fixes its sizes and the tokenizer."""
    image_encoder: str | None = None
    """Image encoder by name, instead of the architecture's."""
    image_encoder_weights: str = "imagenet"
    """imagenet, none (random), or a local file."""
    image_size_px: int | None = None
    """Side of the square image that the encoder reads, instead of the architecture's."""
    resize: ResizeMode = "stretch"
    """How a photo becomes square."""
    hidden_dim: int | None = None
    """Width of image tokens and decoder, instead of the architecture's."""
    num_heads: int | None = None
    """Attention heads, instead of the architecture's."""
    num_image_layers: int | None = None
    """Bidirectional blocks over the image tokens, instead of the architecture's."""
    num_layers: int | None = None
    """Decoder blocks, instead of the architecture's."""
    dropout: float | None = None
    """Dropout of image tokens and decoder, instead of the architecture's or the preset's."""
    train_tokenizer: int = 4096
    """Tokens of the vocabulary that is learned from the captions, when there is no preset and no
    --tokenizer."""
    tokenizer: Path | None = None
    """Folder with vocabulary.json (or vocab.json) and merges.txt of a byte-level BPE such as GPT-2's."""
    lowercase: bool = False
    """Lower-cases captions and drops their final full stop: fewer tokens to learn."""
    max_length: int = 32
    """Most tokens of a training caption, the end token included."""
    train_parts: tuple[Part, ...] = ("image_blocks", "cross_attention", "decoder", "embeddings")
    """Parts that are trained; add image_encoder to fine-tune the image network."""
    frozen_until: str | None = None
    """With image_encoder in --train-parts: the layer of the image encoder up to which it stays frozen all
    the same."""
    lora_rank: int = 0
    """Rank of low-rank updates (LoRA; Hu et al., 2021), such as 8; 0 for none. They are trained in place of the decoder's
    weights, embeddings included, and of a preset's cross-attention, and are merged into the exported preset."""
    lora_alpha: float = 16.0
    """Strength of the updates, divided by the rank."""
    lora_mlp: bool = False
    """Updates of the MLPs too; without it of the attention alone."""

    objective: Literal["cross_entropy", "self_critical"] = "cross_entropy"
    """cross_entropy learns the given captions; self_critical then raises the CIDEr of the captioner's own (Rennie et al.,
    2017), which needs --preset, a tenth of the rate and several captions an image."""
    num_samples: int = 5
    """self_critical: captions drawn for each image of a step."""
    baseline: Literal["mean", "greedy"] = "mean"
    """self_critical: what a drawn caption must beat: the mean of the others, or the greedy caption."""
    cross_entropy_weight: float = 0.0
    """self_critical: share of the loss that still learns the given captions."""

    stages: tuple[Stage, ...] | None = None
    """Trains in stages, each with its own parts, epochs and rate. gpt2, the default with --gpt2: an epoch of the image blocks
    and the cross-attention, which are fresh, one of the decoder too, three of all, the image encoder at a tenth of the rate of
    1e-4. Stages of your own stand in the file of --config."""
    epochs: int = 15
    """Passes over the training images."""
    batch_size: int = 32
    """Images of a step."""
    captions_per_image: int = 5
    """Captions of each image in a step; all of them share one pass of the image encoder."""
    learning_rate: float = 5e-4
    """Peak of the cosine schedule."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the rate rises from 0."""
    final_learning_rate_fraction: float = 0.0
    """Rate at the end of the cosine, as a share of the peak; 1 keeps the rate."""
    rate_scales: dict[Part, float] = dataclasses.field(default_factory=dict)
    """Rates of single parts, as shares of the rate: image_encoder=0.1 trains the image network at a tenth."""
    weight_decay: float = 0.01
    """AdamW's; norms, biases and positions are left out."""
    weight_decays: dict[Part, float] = dataclasses.field(default_factory=dict)
    """Weight decays of single parts, instead of that one: embeddings=0."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0 for any. A norm needs all gradients at once: without it, TensorFlow uses each as
    it comes, which saves memory where --gradient-checkpointing has saved what is larger."""
    label_smoothing: float = 0.1
    """cross_entropy: share of the target probability that is spread over the vocabulary."""
    ema_momentum: float = 0.0
    """Momentum of the average of the weights, such as 0.999; 0 keeps none. Validation and export use the
    average."""
    gradient_accumulation_steps: int = 1
    """Steps whose gradients are averaged before the weights change, as those of one big batch."""
    gradient_checkpointing: bool = False
    """Computes image encoder, image blocks and decoder blocks again in the backward pass (Chen et al., 2016): less memory, more
    time, the same gradients."""
    dtype: Literal["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"] = "float32"
    """Dtype policy of the model in training."""
    seed: int = 0
    """Seed of initial weights, order, augmentation and dropout."""

    min_crop_area: float = 1.0
    """Smallest share of a photo that a random crop keeps; 1 keeps all."""
    horizontal_flip: bool = False
    """Mirrors every second photo, unless one of its captions says left or right."""
    flip_captions_with_sides: bool = False
    """Mirrors those as well."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation."""

    validation_csv: Path | None = None
    """Table of validation images and captions: CSV, TSV, JSON lines, COCO captions JSON, or Karpathy's dataset JSON."""
    validation_images: Path | None = None
    """Folder that its image names start from; by default that of the training table, or the table's own."""
    image_column: str | None = None
    """Column of the image's file in tables; by default guessed from common names."""
    caption_column: str | None = None
    """Column of the caption in tables; by default guessed from common names."""
    max_bad_fraction: float = 0.01
    """Largest share of unusable captions; above it nothing is trained."""
    cache_dir: Path | None = None
    """Where features and checked images are remembered; by default ~/.cache/captioner."""
    num_validation_captions: int = 200
    """Validation images that are captioned after each epoch; 0 captions all."""
    validation_beams: int = 3
    """Beams of those captions; in all else they are decoded as a preset says whose own is beam search."""
    patience: int = 0
    """Stops after so many epochs without a better validation CIDEr; 0 never stops early."""
    wandb_project: str | None = None
    """Project of Weights & Biases that gets the metrics too, as `wandb login` or WANDB_MODE=offline has it."""
    weights_dtype: Literal["float32", "float16"] = "float32"
    """Storage of the exported preset's weights."""

    devices: str = "1"
    """Devices of this machine that share each batch: a number, auto for all, or positions such as 0,2. GPUs, or processors where
    there are none."""
    num_processes: int = 1
    """Processes, on one or more machines, that share each batch; needs KERAS_BACKEND=jax, and a run_dir that all of them see."""
    process_index: int = 0
    """Which of the processes this one is; the process 0 writes the run folder."""
    coordinator: str | None = None
    """Address and port of the process 0, as node1:12345."""
    process_timeout_s: float = 100.0
    """Seconds after which a process that is not heard of counts as lost, which ends the others."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def lora_parts(self) -> tuple[Part, ...]:
        """The trained parts that come pretrained and can have low-rank updates; a GPT-2 brings no cross-attention."""
        pretrained = ("cross_attention", "decoder") if self.preset else ("decoder",) if self.gpt2 else ()
        trained = {part for stage in stage_settings(self) for part in stage.train_parts}
        return tuple(part for part in pretrained if part in trained)

    @property
    def augmentation(self) -> Augmentation | None:
        """The random changes of training images, or None."""
        augmentation = Augmentation(
            min_crop_area=self.min_crop_area,
            horizontal_flip=self.horizontal_flip,
            color_jitter=self.color_jitter,
        )
        return None if augmentation == Augmentation() else augmentation

    def to_dict(self) -> dict:
        """The settings as JSON values."""
        values = dataclasses.asdict(self) | {"stages": [stage.changes for stage in stages_of(self)]}
        return json.loads(json.dumps(values, default=str))
