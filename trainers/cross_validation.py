"""K-fold cross-validation: each part of the images validates once what was trained on the others."""

import dataclasses
import logging
import statistics
from collections.abc import Callable

import keras

from trainers.csv_settings import CsvTrainSettings
from trainers.run_folder import RunFolder

log = logging.getLogger("captioner")

SUMMARY = "cross_validation.json"


def cross_validate(settings: CsvTrainSettings, train: Callable[[CsvTrainSettings], dict]) -> dict[str, dict]:
    """Trains once for each fold, in `run_dir/fold-01` and so on, and gathers the metrics of the best epochs.

    Args:
        settings: of the run, with `folds`. With `resume`, finished folds are not trained again.
        train: `train_csv`.

    Returns:
        For each validation metric `mean`, `standard_deviation` (of the sample) and `values`, one for each fold; also
        in `run_dir/cross_validation.json`.
    """
    best = []
    for fold in range(1, settings.folds + 1):
        run = RunFolder(settings.run_dir / f"fold-{fold:02d}")
        log.info("Fold %d of %d.", fold, settings.folds)
        resume = settings.resume and bool(run.checkpoints)
        best.append(train(dataclasses.replace(settings, fold=fold, run_dir=run.path, resume=resume)))
        keras.backend.clear_session(free_memory=True)
    names = [name for name in best[0] if name.startswith("val_") and all(name in metrics for metrics in best)]
    summary = {name: _summary([metrics[name] for metrics in best]) for name in names}
    RunFolder.write_json(settings.run_dir / SUMMARY, summary)
    return summary


def _summary(values: list[float]) -> dict:
    return {
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values),
        "values": values,
    }
