"""What each process of a training could not read, brought together in the data report of the run."""

import dataclasses
import json
import os
from pathlib import Path

from trainers.data_report import DataReport
from trainers.disk import run_file
from trainers.records import Problem


def process_report(report: Path, process_index: int) -> Path:
    """Where a process other than the first keeps its own part of a data report."""
    return report.with_name(f"{report.stem}.process-{process_index:05d}{report.suffix}")


def merge_process_reports(report: str | os.PathLike, part: str) -> None:
    """Adds what other processes reported to a part of the first one's report, each item once, and deletes their files.

    Args:
        report: path of the report that the first process wrote with `write_data_report`.
        part: name of the part, such as "while training".
    """
    report = Path(report)
    paths = sorted(report.parent.glob(f"{report.stem}.process-*{report.suffix}"))
    if not paths:
        return
    content = json.loads(report.read_text(encoding="utf-8"))
    reports = [json.loads(path.read_text(encoding="utf-8"))[part] for path in paths]
    found = [problem for values in (content.get(part), *reports) if values for problem in values["problems"]]
    each_once = {problem["item"]: Problem(**problem) for problem in reversed(found)}
    names = [field.name for field in dataclasses.fields(DataReport)]
    values = {name: reports[0][name] for name in names if name in reports[0]}
    merged = DataReport(**values | {"problems": tuple(reversed(each_once.values()))})
    content[part] = merged.to_dict()
    with run_file(report) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
    for path in paths:
        path.unlink()
