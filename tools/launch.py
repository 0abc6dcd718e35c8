"""The `captioner launch` commands."""

import dataclasses
from pathlib import Path

from tools.quiet import import_tensorflow
from tools.run_config import read_run
from tools.train import log_on_terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchRayCommand:
    """Trains in several processes that Ray starts, and starts again from the last checkpoint when one is lost.

    Run it where Ray's cluster is (`ray start --head`), or without a cluster on one machine. The data and the run folder must
    lie where all machines see them. Processes run on JAX. A run that has a checkpoint goes on.

    Example:
        captioner launch ray --config run.json --num-workers 8 --gpus
    """

    config: Path
    """JSON file of the run, such as the config.json of a run folder."""
    num_workers: int = 2
    """Processes that share each batch."""
    gpus: bool = False
    """Gives each process a GPU."""
    cpus_per_worker: float = 1.0
    """Processors that Ray sets aside for each process."""
    max_failures: int = 3
    """Times that a lost process is replaced."""


def launch_ray(command: LaunchRayCommand) -> int:
    """Runs a training on Ray."""
    import_tensorflow()
    from trainers.ray_workers import train_with_ray

    settings, train = read_run(command.config)
    with log_on_terminal():
        train_with_ray(
            train,
            settings,
            num_workers=command.num_workers,
            max_failures=command.max_failures,
            use_gpu=command.gpus,
            cpus_per_worker=command.cpus_per_worker,
        )
    print(f"Preset: {settings.run_dir / 'preset'}")
    return 0
