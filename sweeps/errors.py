"""What this floor raises."""


class SweepError(ValueError):
    """A fault of what the user gave (a config, a folder, a name): one clear line, no traceback needed."""

    bad_input = True


class Preempted(BaseException):
    """SIGTERM or SIGINT came. `report` raises it inside a step, which may save a checkpoint and must re-raise.

    It derives from BaseException so that a step's own `except Exception` does not swallow it.
    """


class TimedOut(Preempted):
    """The step has worked for as long as it may. It is raised as Preempted is, and a step may save itself likewise."""
