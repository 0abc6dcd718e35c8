"""What holds for all tests."""

import signal

# A job in the background is started with Ctrl-C ignored and hands that on to the processes of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
