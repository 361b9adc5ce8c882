"""The errors a user can cause. Each message says what was wrong, where, and what to do."""

from __future__ import annotations

from fluidgate.words import escaped

LONGEST = 4000
"""Characters of a message: a list of all known names has half as many."""


class FluidgateError(Exception):
    """Base of all fluidgate errors; the command line prints its message and exits with 1.

    The message is one line without control characters and of bounded length, whatever a file or an option put into it.
    """

    def __init__(self, message: str = "") -> None:
        line = " ".join(escaped(message).split("\n"))
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 4 :]}")


class InputError(FluidgateError):
    """A file, an option or a value that cannot be used as given."""


class Stalled(FluidgateError):
    """The engine has work, scheduled nothing, and the policy named no time to ask again."""


class JobFailed(FluidgateError):
    """The process that runs a job died, again and again."""


class FluidgateWarning(UserWarning):
    """Base of all fluidgate warnings; the command line prints its message and goes on."""


class CalibrationWarning(FluidgateWarning):
    """A step time is used for steps beyond those it was measured on."""


class KvPoolWarning(FluidgateWarning):
    """A KV cache of several groups of layers is counted as one pool."""


class ResultsWarning(FluidgateWarning):
    """Lines of a results file cannot be used; their jobs run again."""
