"""Ctrl-C waits for the item that is on its way."""

import signal
import threading

import pytest

from captioner.python_calls import whole_items


@pytest.fixture
def interruptible():
    """Python's own handler, given back afterwards."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_item_is_made_whole_before_the_interrupt_is_raised(interruptible):
    made, taken = [], []

    def items():
        for number in range(3):
            if number == 1:
                signal.raise_signal(signal.SIGINT)
            made.append(number)
            yield number

    with pytest.raises(KeyboardInterrupt):
        for number in whole_items(items()):
            taken.append(number)
    assert made == [0, 1] and taken == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_handler_is_told_and_the_items_go_on(interruptible):
    told = []
    signal.signal(signal.SIGINT, lambda number, frame: told.append(number))

    def items():
        signal.raise_signal(signal.SIGINT)
        yield not told
        yield bool(told)

    assert list(whole_items(items())) == [True, True]


def test_a_thread_without_signals_gets_all_items():
    taken = []
    thread = threading.Thread(target=lambda: taken.extend(whole_items(range(3))))
    thread.start()
    thread.join()
    assert taken == [0, 1, 2]
