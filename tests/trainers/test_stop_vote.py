"""Processes agree on the step after which they stop, without asking each other after every one."""

import dataclasses
import signal

import pytest

from trainers import stop_vote
from trainers.stop_vote import StopVote
from trainers.workers import ALONE, Workers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair(Workers):
    """This process, and another one whose numbers are given."""

    others: list
    asked: list

    def highest(self, number):
        self.asked.append(number)
        return max(number, self.others.pop(0))


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stop_vote.time, "monotonic", lambda: now[0])
    return now


def test_one_process_stops_at_once():
    vote = StopVote(ALONE)
    assert [vote.after_step(number) for number in (0, signal.SIGTERM)] == [0, signal.SIGTERM]


def test_the_slowest_process_says_how_many_steps_pass_between_votes(clock):
    # In turns: milliseconds of a step, and the signal. The other one is the slower, and is sent a signal later.
    pair = Pair(num_processes=2, others=[500, 0, 400, signal.SIGTERM], asked=[])
    vote, said = StopVote(pair), []
    for _ in range(5):
        clock[0] += 0.1
        said.append(vote.after_step(0))
    assert said == [0, 0, 0, 0, signal.SIGTERM]
    assert pair.asked == [100, 0, 100, 0]
