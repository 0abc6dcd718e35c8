"""Trains a captioner twice, from a pretrained decoder and from scratch, and plots both losses.

Usage: python tests/benchmarks/pretrained_decoder.py TRAIN_CSV VALIDATION_CSV IMAGES FOLDER PLOT

The decoder is a small GPT-2, pretrained as a language model on all captions of TRAIN_CSV without any image; the captioners see
the first 600 images only. FOLDER takes the GPT-2, the features and the runs; PLOT is a PNG file.
"""

import json
import subprocess
import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from captioner.model import architecture
from captioner.model.gpt2_decoder import GPT2Decoder
from captioner.text import CaptionTokenizer, train_tokenizer
from captioner.text.targets import training_targets
from captioner.weights import write_safetensors
from captioner.weights.gpt2_config import hugging_face_config
from captioner.weights.gpt2_names import HUGGING_FACE
from captioner.weights.gpt2_tokenizer import write_gpt2_tokenizer
from trainers.csv_trainer import normalize_caption
from trainers.optimization import CaptionLoss

ARCHITECTURE, MAX_LENGTH, NUM_TOKENS = "small_efficientnet_lite0", 20, 2048
NUM_IMAGES, NUM_VALIDATION_IMAGES, EPOCHS, SEED = 600, 100, 5, 0
PRETRAINING_EPOCHS, PRETRAINING_BATCH, PRETRAINING_RATE = 1, 64, 1e-3


class LanguageModel(keras.Model):
    """A decoder whose cross-attention is muted, on texts alone."""

    def __init__(self, decoder: GPT2Decoder):
        super().__init__()
        self.decoder = decoder
        self.no_image = np.zeros((1, 1, decoder.hidden_dim), "float32")

    def call(self, inputs, training=None):
        token_ids, padding_mask = inputs
        images = keras.ops.repeat(self.no_image, keras.ops.shape(token_ids)[0], axis=0)
        hidden = self.decoder(token_ids[:, None], padding_mask[:, None], images, training=training)
        return self.decoder.logits(hidden)[:, 0]


def main(train_csv: str, validation_csv: str, images: str, folder: str, plot: str) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED)
    pretrain([normalize_caption(text, True) for text in pd.read_csv(train_csv).caption], folder / "gpt2")
    first_images(train_csv, NUM_IMAGES).to_csv(folder / "train.csv", index=False)
    first_images(validation_csv, NUM_VALIDATION_IMAGES).to_csv(folder / "validation.csv", index=False)
    common = (
        f"train csv --csv {folder}/train.csv --validation-csv {folder}/validation.csv --images {images} --cache-features "
        f"--cache-dir {folder}/cache --lowercase --max-length {MAX_LENGTH} --epochs {EPOCHS} --seed {SEED} "
        "--num-validation-captions 0"
    )
    starts = {
        "from scratch": f"--tokenizer {folder}/gpt2",
        "pretrained decoder": f"--gpt2 {folder}/gpt2 --stages none",
    }
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharex=True)
    for number, (name, start) in enumerate(starts.items()):
        run = folder / f"run_{number}"
        words = [*common.split(), *start.split(), "--run-dir", str(run)]
        subprocess.run([sys.executable, "-m", "tools.main", *words], check=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        sys.stdout.writelines(f"{name}: {json.dumps(line)}\n" for line in lines)
        for ax, key in zip(axes, ("loss", "val_loss"), strict=True):
            ax.plot([line["epoch"] for line in lines], [line[key] for line in lines], marker="o", label=name)
    for ax, title in zip(axes, ("training loss, nats per token", "validation loss"), strict=True):
        ax.set(title=title, xlabel="epoch")
        ax.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(plot, dpi=110)


def pretrain(captions: list[str], out: Path) -> None:
    """Writes a GPT-2 of the architecture's decoder, trained on texts, as Hugging Face has it."""
    learned = train_tokenizer(captions, NUM_TOKENS)
    out.mkdir(exist_ok=True)
    learned.save_assets(out)
    vocabulary = json.loads((out / "vocabulary.json").read_text())
    # One token for start, end and padding, as GPT-2 has it.
    tokenizer = CaptionTokenizer(vocabulary | {"<|endoftext|>": len(vocabulary)}, out / "merges.txt")
    sizes = architecture(ARCHITECTURE)
    names = ("num_layers", "num_heads", "hidden_dim", "max_sequence_length", "dropout")
    decoder = GPT2Decoder(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_special_tokens=0,
        intermediate_dim=4 * sizes["hidden_dim"],
        **{name: sizes[name] for name in names},
    )
    decoder.build()
    for block in decoder.blocks:
        for variable in block.cross_attention_output.weights:
            variable.assign(np.zeros(variable.shape))
        for layer in block.cross_attention_layers:
            layer.trainable = False
    start, end = tokenizer.start_token_id, tokenizer.end_token_id
    targets = training_targets(
        tokenizer.encode_batch(captions),
        start_token_id=start,
        end_token_id=end,
        pad_token_id=end,
        max_length=MAX_LENGTH,
        pad_to_max_length=True,
    )
    steps = PRETRAINING_EPOCHS * len(captions) // PRETRAINING_BATCH
    model = LanguageModel(decoder)
    rate = keras.optimizers.schedules.CosineDecay(PRETRAINING_RATE, steps)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01, beta_2=0.98), CaptionLoss())
    model.fit(
        (targets.token_ids, targets.padding_mask),
        targets.targets,
        sample_weight=targets.sample_weight,
        batch_size=PRETRAINING_BATCH,
        epochs=PRETRAINING_EPOCHS,
        verbose=2,
    )
    rows = [row for row in HUGGING_FACE.tensors(decoder, "transformer.") if "cross" not in row[0]]
    write_safetensors(out / "model.safetensors", rows)
    config = hugging_face_config(decoder, bos_token_id=start, eos_token_id=end, pad_token_id=end)
    (out / "config.json").write_text(json.dumps(config | {"add_cross_attention": False}))
    write_gpt2_tokenizer(tokenizer, out)


def first_images(table: str, count: int) -> pd.DataFrame:
    frame = pd.read_csv(table)
    return frame[frame.file_name.isin(frame.file_name.unique()[:count])]


if __name__ == "__main__":
    main(*sys.argv[1:])
