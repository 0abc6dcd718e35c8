"""How the processes of a training stop at the same step."""

import time

from trainers.workers import Workers

SECONDS = 2.0
"""Between two votes: asking all processes after each step would hold up those that have many short ones."""


class StopVote:
    """Tells every process, after the same step, what signal one of them was sent."""

    def __init__(self, workers: Workers):
        self.workers = workers
        self.steps = self.steps_left = 1
        self.voted_at = time.monotonic()

    def after_step(self, stop_signal: int) -> int:
        """The signal that ends the run now, or 0; all processes must call it after each step.

        Args:
            stop_signal: int. What this process was sent, or 0.
        """
        if self.workers.num_processes == 1:
            return stop_signal
        self.steps_left -= 1
        if self.steps_left:
            return 0
        milliseconds = 1000 * (time.monotonic() - self.voted_at) / self.steps
        slowest = self.workers.highest(max(int(milliseconds), 1))
        self.steps = self.steps_left = max(int(1000 * SECONDS / slowest), 1)
        stop_signal = self.workers.highest(stop_signal)
        self.voted_at = time.monotonic()
        return stop_signal
