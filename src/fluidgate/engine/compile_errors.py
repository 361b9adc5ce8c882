"""Why numba cannot compile a policy's function: its reason, the line at fault and what to do, in one sentence."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numba

from fluidgate.policies.protocol import Event, Request, View
from fluidgate.words import nearest

LONGEST_REASON = 400


class _Form(NamedTuple):
    takes: str
    returns: str


_TIME = "a time such as float('inf')"
_FORMS = {
    "classify": _Form("params, request", "a class such as 0"),
    "rank": _Form("params, request", "a number"),
    "admit": _Form("params, memory, view, out_quota", _TIME),
    "advance": _Form("params, memory, view, out_mask", _TIME),
    "shed": _Form("params, memory, view, out_rows", _TIME),
    "observe": _Form("params, memory, event", "nothing"),
}
_TUPLES: dict[str, tuple[str, ...]] = {kind.__name__: kind._fields for kind in (View, Request, Event)}
_NOT_THE_USERS = tuple(str(Path(file).parent) + os.sep for file in (numba.__file__, str(Path(__file__).parent)))

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PLACE = re.compile(
    r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)|\b(?:at|from) (?P<path>\S.*) \((?P<row>\d+)(?::\d+)?\)$',
    re.MULTILINE,
)
_NOISE = (
    (re.compile(r" at 0x[0-9a-f]+"), ""),
    (re.compile(rf"\b({'|'.join(_TUPLES)})\((?:[^()]|\([^()]*\))*\)"), r"\1"),
    (re.compile(r", defined at .*$| Raised from .*$"), ""),
    (re.compile(r" for '\$[^']*'"), ""),  # a variable of numba's own
)


def compile_error(error: Exception, policy: str, decision: str, function: Callable[..., Any]) -> str:
    """The sentence for the user whose `function`, the `decision` of a policy, did not compile."""
    text = _COLOURS.sub("", str(error))
    file, line = next(_places(error, text), _definition(function))
    reason = _reason(text) or type(error).__name__
    return f"policy {policy}: numba cannot compile its {decision}: {file}:{line}: {reason}; {_hint(reason, decision)}"


def _reason(text: str) -> str:
    """Numba's first line that is not a header, with the call that a line which ends in a colon is about."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Failed in ")]
    reason = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1]).replace(": >>> ", ": ")
    for noise, instead in _NOISE:
        reason = noise.sub(instead, reason)
    return reason.rstrip(". ")[:LONGEST_REASON]


def _places(error: Exception, text: str) -> Iterator[tuple[str, int]]:
    """File and line of each place in the user's files that numba names, the innermost first."""
    found = [(place["file"] or place["path"], int(place["line"] or place["row"])) for place in _PLACE.finditer(text)]
    if (loc := getattr(error, "loc", None)) is not None:
        found.append((loc.filename, loc.line))
    for name, line in found:
        path = os.path.abspath(name)
        if not path.startswith(_NOT_THE_USERS):
            yield (path if os.path.exists(path) else name), line


def _definition(function: Callable[..., Any]) -> tuple[str, int]:
    function = inspect.unwrap(getattr(function, "py_func", function))
    code = function.__code__
    try:
        source, _ = inspect.getsourcelines(code)
    except OSError:  # typed in, or made by a program
        source = []
    decorators = next((k for k, line in enumerate(source) if line.lstrip().startswith("def ")), 0)
    return code.co_filename, code.co_firstlineno + decorators


def _hint(reason: str, decision: str) -> str:
    form = _FORMS[decision]
    if reason.startswith("No conversion from "):
        return f"return {form.returns} on every path"
    if reason.startswith("Signature mismatch"):
        return f"define it as {decision}({form.takes})"
    if found := re.match(r"Untyped [\w ]+ name '(\w+)'.*<class 'function'>", reason):
        return f"decorate {found[1]} with @kernel (from fluidgate.kernel import kernel)"
    if found := re.match(r"NameError: name '(\w+)' is not defined", reason):
        return f"define {found[1]}, or import it"
    if found := re.match(r"Unknown attribute '(\w+)' of type (\w+)(?:\((.*)\))?$", reason):
        known = found[3].split(", ") if found[2] == "params" else _TUPLES.get(found[2], ())
        if known:
            near = nearest(found[1], known)
            return f"did you mean {near}?" if near else f"it has {', '.join(known)}"
    return "use numbers, arrays and loops only, or run it with compile=False"
