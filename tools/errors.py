"""The error of a command that was called with flags that cannot be followed."""


class UsageError(ValueError):
    """Flags or inputs that contradict each other or name nothing; the command exits with code 2."""
