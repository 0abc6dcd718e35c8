"""A training whose processes Ray starts, on one or more machines, and starts again after a failure."""

import dataclasses
import importlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from trainers.run_folder import RunFolder
from trainers.settings import TrainSettings

GPU_PLATFORM, CPU_PLATFORM = "cuda", "cpu"


def train_with_ray(
    train: Callable,
    settings: TrainSettings,
    *,
    num_workers: int,
    max_failures: int,
    use_gpu: bool = False,
    cpus_per_worker: float = 1,
) -> None:
    """Runs a training in processes of Ray Train; each time one of them is lost, all go on from the last checkpoint.

    A cluster that Ray is connected to is used; otherwise Ray starts on this machine. Processes run on JAX.

    Args:
        train: function of a module, from settings to metrics, such as `train_csv`.
        settings: of the run; the working folder, `run_dir` and the data must be seen by all machines. A run that has a checkpoint
            goes on.
        num_workers: int. Processes.
        max_failures: int. Losses after which the training is given up.
        use_gpu: bool. One GPU for each process.
        cpus_per_worker: float. Processors that Ray sets aside for each process.

    Raises:
        ImportError: If Ray is not installed.
        RuntimeError: If the training failed too often, or failed for another reason than a lost process.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    except ImportError as error:
        raise ImportError(f'Ray is needed: pip install "captioner[ray]" ({error}).') from error

    platform = GPU_PLATFORM if use_gpu else CPU_PLATFORM
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=True)
    resources = {"CPU": cpus_per_worker} | ({"GPU": 1} if use_gpu else {})
    run_dir = Path(settings.run_dir).absolute()
    trainer = DataParallelTrainer(
        _train_in_worker,
        train_loop_config={
            "train": (train.__module__, train.__qualname__),
            "settings": dataclasses.replace(settings, run_dir=run_dir),
            "environment": {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": platform},
            "folder": os.getcwd(),
        },
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="ray", storage_path=str(run_dir), failure_config=FailureConfig(max_failures=max_failures)
        ),
    )
    trainer.fit()


def _train_in_worker(config: dict) -> None:
    # Before anything imports Keras: a worker is a new process each time.
    os.environ.update(config["environment"])
    os.chdir(config["folder"])  # paths may be relative to where the training was started
    import ray
    import ray.train.collective

    context = ray.train.get_context()
    address = None
    if context.get_world_rank() == 0:
        address = f"{ray.util.get_node_ip_address()}:{_free_port()}"
    settings = dataclasses.replace(
        config["settings"],
        coordinator=ray.train.collective.broadcast_from_rank_zero(address),
        process_index=context.get_world_rank(),
        num_processes=context.get_world_size(),
    )
    settings = dataclasses.replace(settings, resume=bool(RunFolder(settings.run_dir).checkpoints))
    module, name = config["train"]
    getattr(importlib.import_module(module), name)(settings)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]
