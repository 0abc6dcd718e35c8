"""The `captioner check-resume` command."""

import dataclasses
from pathlib import Path

from tools.errors import UsageError
from tools.quiet import import_tensorflow
from tools.run_config import read_run
from tools.train import log_on_terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckResumeCommand:
    """Kills a training at random steps, resumes it, and compares it with one that ran through.

    Take a short run of yours: a table of a few images, one or two epochs. It is trained twice, with a checkpoint after each
    step; on a processor both end with the same weights and metrics to the bit. Exit code 0 if they do, and 1 if they differ
    or the run ended before it could be killed.

    Example:
        captioner check-resume --config runs/mine/config.json --output /tmp/check --kills 20
    """

    config: Path
    """JSON file of the run, such as the config.json of a run folder."""
    output: Path
    """Folder for the two runs, `whole` and `killed`, which must not be there yet."""
    kills: int = 20
    """How often the run is killed, at most."""
    seed: int = 0
    """Of the moments of the kills."""

    def __post_init__(self) -> None:
        if self.kills < 1:
            raise UsageError(f"`--kills` must be at least 1; received {self.kills}.")


def run_check(command: CheckResumeCommand) -> int:
    """Runs the comparison and prints what differs."""
    import_tensorflow()
    from trainers.check_resume import check_resume

    settings, train = read_run(command.config)
    with log_on_terminal():
        report = check_resume(train, settings, command.output, num_kills=command.kills, seed=command.seed)
    steps = ", ".join(map(str, report.killed_at))
    print(f"Killed {len(report.killed_at)} times, with so many steps saved: {steps or '-'}")
    for difference in report.differences:
        print(f"Not equal: {difference}")
    if not report.killed_at:
        print("The run ended before it could be killed, so nothing was checked: take more epochs.")
    elif not report.differences:
        print("Weights, optimizer and metrics are those of the whole run, to the bit.")
    return 0 if report.killed_at and not report.differences else 1
