"""The command line: one file per command, listed below. Thin: options become values, rooms do the work."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple, NoReturn, TextIO

import typer
from typer.core import TyperGroup

from fluidgate.cli.help import Command
from fluidgate.errors import FluidgateError, FluidgateWarning
from fluidgate.output import FULL, cannot_write
from fluidgate.version import version


class _Home(NamedTuple):
    """Where a command is: its module here, its function in it, and the example for its help."""

    module: str
    function: str = "command"
    example: str = "EXAMPLE"


_COMMANDS = {
    "plan": _Home("plan"),
    "simulate": _Home("simulate", "simulate_command", "SIMULATE_EXAMPLE"),
    "emulate": _Home("simulate", "emulate_command", "EMULATE_EXAMPLE"),
    "compare": _Home("compare"),
    "demo": _Home("demo"),
    "frontier": _Home("frontier"),
    "size": _Home("size"),
    "whatif": _Home("whatif"),
    "explore": _Home("explore"),
    "serve-args": _Home("serve_args"),
    "scaling-rules": _Home("scaling_rules"),
    "doctor": _Home("doctor"),
    "list": _Home("listing"),
}
# A group is the `app` of the module of its name, with the commands that have a file of their own.
_GROUPS = {
    "calibrate": {
        "aiconfigurator": _Home("calibrate_aiconfigurator"),
        "requests": _Home("calibrate_requests"),
        "server": _Home("calibrate_server"),
        "vidur": _Home("calibrate_vidur"),
    },
    "trace": {},
    "experiment": {},
}


class _Stopped(Exception):
    """Ctrl-C, in a form that typer lets through: it turns a `KeyboardInterrupt` into a silent exit."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise _Stopped("; ".join(["stopped", *getattr(interrupt, "__notes__", ())])) from None


def command_line(arguments: list[str]) -> typer.Typer:
    """What to call with `arguments`: the command that they name, or all, which take long to load."""
    app = typer.Typer(
        name="fluidgate",
        cls=_Commands,
        help="Decide when LLM requests may enter the GPU, so that the KV cache stays full without overflowing.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    known = [*_COMMANDS, *_GROUPS]
    for name in arguments[:1] if arguments and arguments[0] in known else known:
        if name in _COMMANDS:
            _add(app, name, _COMMANDS[name])
        else:
            group = import_module(f"fluidgate.cli.{name}").app
            for known in group.registered_commands:
                known.cls = Command
            for part, home in _GROUPS[name].items():
                _add(group, part, home)
            app.add_typer(group, name=name)
    return app


def _add(app: typer.Typer, name: str, home: _Home) -> None:
    module = import_module(f"fluidgate.cli.{home.module}")
    app.command(name, cls=Command, epilog=getattr(module, home.example))(getattr(module, home.function))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fluidgate {version()}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Decide when LLM requests may enter the GPU, so that the KV cache stays full without overflowing."""


_SPREAD = ("--goodput", "--slo")


def _spread_bounds(arguments: list[str]) -> list[str]:
    """`--goodput a:1 b:2`, as `vllm bench serve` takes it, becomes one option per bound; so does `--slo`."""
    spread: list[str] = []
    option = ""
    for argument in arguments:
        follows = option != "" and ":" in argument and not argument.startswith("-")
        if follows and spread[-1] != option:
            spread.append(option)
        spread.append(argument)
        option = argument if argument in _SPREAD else option if follows else ""
    return spread


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings are one sentence on stderr, like errors; others keep the place in the code."""
    if issubclass(category, FluidgateWarning):
        print(f"warning: {message}", file=file or sys.stderr, flush=True)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=file or sys.stderr, end="")


def main() -> None:
    """Run the command line; an error that the user can correct is one sentence on stderr and exit status 1."""
    warnings.showwarning = _show_warning
    try:
        _run(_spread_bounds(sys.argv[1:]))
    except FluidgateError as error:
        _end(f"error: {error}", 1)
    except MemoryError:
        _end("error: this machine has too little memory; use fewer requests or KV blocks", 1)
    except _Stopped as stopped:
        _end(str(stopped), 130)


def _run(arguments: list[str]) -> None:
    """The command; what it printed has left, or been refused in a sentence, when this returns.

    Raises:
        InputError: stdout takes no more, as on a full disk.
    """
    try:
        try:
            command_line(arguments or _being_completed())(arguments)
        finally:
            if sys.stdout is not None:  # it was closed from the start
                sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in (*FULL, errno.EPIPE, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer has no place to go
        if error.errno == errno.EPIPE:  # the reader has what it wanted, such as `head`
            sys.exit(1)
        raise cannot_write("standard output", error, "free some space, or write to another place") from None


def _end(message: str, status: int) -> NoReturn:
    with suppress(OSError):
        print(message, file=sys.stderr)
    sys.exit(status)


def _being_completed() -> list[str]:
    """The words that a shell asks to complete, so that only their command is loaded."""
    typed = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return typed.split()[1:]
