"""The subcommands of `captioner`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand: where its settings and its function are; its module is imported when it is called."""

    words: tuple[str, ...]
    module: str
    settings: str
    function: str
    summary: str


COMMANDS = (
    Command(("caption",), "tools.caption", "CaptionCommand", "caption", "Write captions for photos."),
    Command(
        ("train", "csv"),
        "tools.train",
        "TrainCsvCommand",
        "train_csv",
        "Train a captioner on a table of images.",
    ),
    Command(("compare",), "tools.compare", "CompareCommand", "compare", "Compare training runs."),
    Command(
        ("check-resume",),
        "tools.check_resume",
        "CheckResumeCommand",
        "run_check",
        "Kill a training again and again; see that nothing is lost.",
    ),
    Command(
        ("train", "webdataset"),
        "tools.train",
        "TrainWebdatasetCommand",
        "train_webdataset",
        "Train a captioner on tar shards.",
    ),
    Command(
        ("train", "--recipes"),
        "tools.recipes",
        "RecipesCommand",
        "show_recipes",
        "List named recipes: data, hardware, score.",
    ),
    Command(
        ("launch", "ray"),
        "tools.launch",
        "LaunchRayCommand",
        "launch_ray",
        "Train in processes that Ray starts and replaces.",
    ),
    Command(
        ("evaluate",),
        "tools.evaluate",
        "EvaluateCommand",
        "evaluate",
        "Score captions with the COCO metrics.",
    ),
    Command(("score",), "tools.score", "ScoreCommand", "score", "Give the probability of given captions."),
    Command(
        ("shards", "write"),
        "tools.shards_write",
        "ShardsWriteCommand",
        "shards_write",
        "Write images and captions as tar shards.",
    ),
    Command(
        ("shards", "index"),
        "tools.shards",
        "ShardsIndexCommand",
        "shards_index",
        "Check shards and index their good samples.",
    ),
    Command(
        ("shards", "check"),
        "tools.shards",
        "ShardsCheckCommand",
        "shards_check",
        "Tell what training would see of shards.",
    ),
    Command(
        ("shards", "missing"),
        "tools.shards",
        "ShardsMissingCommand",
        "shards_missing",
        "Tell what img2dataset could not download.",
    ),
    Command(
        ("benchmark", "decode"),
        "tools.benchmark",
        "BenchmarkDecodeCommand",
        "benchmark_decode",
        "Time decoding on this machine.",
    ),
    Command(
        ("benchmark", "train"),
        "tools.benchmark_train",
        "BenchmarkTrainCommand",
        "benchmark_train",
        "Time training on this machine.",
    ),
    Command(
        ("benchmark", "data"),
        "tools.benchmark_data",
        "BenchmarkDataCommand",
        "benchmark_data",
        "Time the reading of training data on this machine.",
    ),
    Command(
        ("download", "gpt2"),
        "tools.download",
        "DownloadGPT2Command",
        "download",
        "Fetch OpenAI's GPT-2 checkpoints.",
    ),
    Command(
        ("convert", "openai"),
        "tools.convert",
        "ConvertOpenaiCommand",
        "convert_openai",
        "Make a preset of OpenAI's GPT-2.",
    ),
    Command(
        ("convert", "huggingface"),
        "tools.convert",
        "ConvertHuggingFaceCommand",
        "convert_huggingface",
        "Make a preset of a Hugging Face GPT-2 or captioner.",
    ),
    Command(
        ("convert", "--to", "huggingface"),
        "tools.convert",
        "ConvertToHuggingFaceCommand",
        "convert_to_huggingface",
        "Write a captioner's GPT-2 for transformers.",
    ),
    Command(("doctor",), "tools.doctor", "DoctorCommand", "doctor", "Say what this machine has and lacks."),
)
