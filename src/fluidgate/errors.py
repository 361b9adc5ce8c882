"""The errors a user can cause. Each message says what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable

from fluidgate.words import escaped, nearest, shown

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


def unknown(what: str, name: str, known: Iterable[str], advice: str = "", *, near: str | None = None) -> InputError:
    """The refusal of a name that is not among those known: the nearest, if one is near, and all.

    Args:
        advice: a sentence more.
        near: the known name that may have been meant, or "" for none; found here if None.
    """
    names = list(known)
    near = nearest(name, names) if near is None else near
    hint = f"; did you mean {near}?" if near else "."
    return InputError(f"unknown {what} {shown(name)}{hint} Known: {', '.join(names)}{f'. {advice}' if advice else ''}")


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


class ThresholdWarning(FluidgateWarning):
    """A paper's algorithm runs to the letter with thresholds that break its conditions."""


class ResultsWarning(FluidgateWarning):
    """Lines of a results file cannot be used; their jobs run again."""
