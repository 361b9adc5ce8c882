"""The errors a user can cause. Each message says what was wrong, where, and the mend."""

from __future__ import annotations

from fluidgate.words import escaped


class FluidgateError(Exception):
    """Base of all fluidgate errors; the command line prints its message and exits with 1.

    The message is one line without control characters, whatever a file or an option put into it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(escaped(message).split("\n")))


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


class ResultsWarning(FluidgateWarning):
    """Lines of a results file cannot be used; their jobs run again."""
