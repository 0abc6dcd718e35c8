"""What clusters tell a process about its place."""

import pytest

from tools.errors import UsageError
from tools.processes import first_host, with_processes
from trainers.csv_settings import CsvTrainSettings

TORCHRUN = {"WORLD_SIZE": "3", "RANK": "2", "MASTER_ADDR": "head", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_STEP_NODELIST": "node[003-006]",
    "SLURM_JOB_ID": "40017",
}


def place(environment, **changes):
    settings = CsvTrainSettings(run_dir="run", csv="table.csv", **changes)
    settings = with_processes(settings, environment)
    return settings.process_index, settings.num_processes, settings.coordinator


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, (0, 1, None)),
        (TORCHRUN, (2, 3, "head:29500")),
        (SLURM, (1, 4, "node003:20017")),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, (0, 1, None)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, (0, 1, None)),  # a batch script runs once
    ],
)
def test_the_environment_says_which_process_this_is(environment, expected):
    assert place(environment) == expected


def test_flags_win_and_kubernetes_gives_the_index():
    flags = {"num_processes": 2, "coordinator": "here:1"}
    assert place(TORCHRUN, **flags, process_index=1) == (1, 2, "here:1")
    assert place({"JOB_COMPLETION_INDEX": "1"}, **flags) == (1, 2, "here:1")


def test_a_variable_that_is_missing_is_named():
    with pytest.raises(UsageError, match=r"RANK must be a number; it is None"):
        place({"WORLD_SIZE": "2", "MASTER_ADDR": "head", "MASTER_PORT": "1"})


@pytest.mark.parametrize(
    "hosts, first",
    [("one", "one"), ("a,b", "a"), ("node[003-010,012],x", "node003"), ("tux[1,7].lan", "tux1.lan")],
)
def test_the_first_host_of_a_list(hosts, first):
    assert first_host(hosts) == first
