"""Which process of a training this one is, from the environment that a cluster sets."""

import dataclasses
import re
from collections.abc import Mapping

from tools.errors import UsageError
from trainers.settings import TrainSettings

SLURM_PORTS = range(20_000, 60_000)


def with_processes(settings: TrainSettings, environment: Mapping[str, str]) -> TrainSettings:
    """The settings with what the environment tells of processes; flags come first.

    `srun` tells all; so do torchrun and what sets the same variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); an
    indexed job of Kubernetes tells the index.

    Raises:
        UsageError: If a variable is missing or is no number.
    """
    if settings.coordinator is None and settings.num_processes == 1:
        found = _slurm(environment) or _torchrun(environment)
    elif "JOB_COMPLETION_INDEX" in environment and not settings.process_index:
        found = {"process_index": _number(environment, "JOB_COMPLETION_INDEX")}
    else:
        found = {}
    return dataclasses.replace(settings, **found) if found else settings


def _torchrun(environment: Mapping[str, str]) -> dict:
    if "WORLD_SIZE" not in environment or (count := _number(environment, "WORLD_SIZE")) < 2:
        return {}
    address = environment.get("MASTER_ADDR")
    if not address:
        raise UsageError(
            f"WORLD_SIZE={count} needs MASTER_ADDR, the address of the process 0; it is not set."
        )
    return {
        "num_processes": count,
        "process_index": _number(environment, "RANK"),
        "coordinator": f"{address}:{_number(environment, 'MASTER_PORT')}",
    }


def _slurm(environment: Mapping[str, str]) -> dict:
    # SLURM_NTASKS would count also in a batch script, which runs once.
    if (
        "SLURM_STEP_NUM_TASKS" not in environment
        or (count := _number(environment, "SLURM_STEP_NUM_TASKS")) < 2
    ):
        return {}
    port = SLURM_PORTS[_number(environment, "SLURM_JOB_ID") % len(SLURM_PORTS)]
    return {
        "num_processes": count,
        "process_index": _number(environment, "SLURM_PROCID"),
        "coordinator": f"{first_host(environment.get('SLURM_STEP_NODELIST', 'localhost'))}:{port}",
    }


def first_host(hosts: str) -> str:
    """The first of SLURM's list of hosts, such as node[003-010,012],other."""
    name, first, rest = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\])?([^,]*)", hosts).groups()
    return name + (first or "") + rest


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name)
    if value is None or not value.isdecimal():
        raise UsageError(f"the environment variable {name} must be a number; it is {value!r}.")
    return int(value)
