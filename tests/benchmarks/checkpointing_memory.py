"""Peak memory and seconds of a training step of GPT-2 124M with and without --gradient-checkpointing.

Usage: checkpointing_memory.py [IMAGES CAPTIONS TOKENS]; each variant runs in a process of its own.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ARCHITECTURE = "gpt2_124m_efficientnet_v2_s"


def measure(recompute: bool, num_images: int, num_captions: int, num_tokens: int) -> None:
    """Prints peak memory in MB before the first step and after two, and the processor seconds of the second."""
    import keras
    import numpy as np

    from captioner.model import CaptionerBackbone, ImageCaptioner, architecture
    from trainers.loop import compiled_model
    from trainers.settings import TrainSettings

    keras.utils.set_random_seed(0)
    settings = TrainSettings(run_dir=Path("unused"), gradient_checkpointing=recompute)
    backbone = CaptionerBackbone(**architecture(ARCHITECTURE))
    backbone.set_trainable_parts(settings.train_parts)
    if recompute:
        backbone.recompute_blocks()
    model = compiled_model(settings, ImageCaptioner(backbone), num_steps=1000)
    generator = np.random.default_rng(0)
    shape = (num_images, num_captions, num_tokens)
    token_ids = generator.integers(0, backbone.vocabulary_size, shape).astype("int32")
    images = generator.uniform(0, 255, (num_images, *backbone.image_size, 3)).astype("float32")
    x = {"images": images, "token_ids": token_ids, "padding_mask": np.ones(shape, bool)}
    before = peak_mb()
    for _ in range(2):
        started = time.process_time()
        loss = model.train_on_batch(x, token_ids, np.ones(shape, "float32"))
    seconds = time.process_time() - started
    print(
        f"{keras.config.backend()}, recompute {recompute}: {before:.0f} MB before, {peak_mb():.0f} MB at the peak, "
        f"{seconds:.1f} processor seconds a step, loss {float(loss):.5f}"
    )


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    if os.environ.get("RECOMPUTE"):
        measure(os.environ["RECOMPUTE"] == "yes", *map(int, sys.argv[1:]))
        return
    sizes = sys.argv[1:] or ["8", "5", "20"]
    for recompute in ("no", "yes"):
        command = [sys.executable, __file__, *sizes]
        subprocess.run(command, env=os.environ | {"RECOMPUTE": recompute}, check=True)


if __name__ == "__main__":
    main()
