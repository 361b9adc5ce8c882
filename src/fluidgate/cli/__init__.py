"""The command line: one file per command, listed below. Thin: options become values, rooms do the work."""

from __future__ import annotations

import sys
import warnings
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from fluidgate.cli import (
    calibrate,
    calibrate_aiconfigurator,
    calibrate_requests,
    calibrate_server,
    compare,
    doctor,
    experiment,
    frontier,
    plan,
    serve_args,
    simulate,
    trace,
)
from fluidgate.errors import FluidgateError, FluidgateWarning
from fluidgate.version import version


class _Stopped(Exception):
    """Ctrl-C, in a form that typer lets through: it turns a `KeyboardInterrupt` into a silent exit."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise _Stopped("; ".join(["stopped", *getattr(interrupt, "__notes__", ())])) from None


app = typer.Typer(
    name="fluidgate",
    cls=_Commands,
    help="Decide when LLM requests may enter the GPU, so that the KV cache stays full without overflowing.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("plan", epilog=plan.EXAMPLE)(plan.command)
app.command("simulate", epilog=simulate.SIMULATE_EXAMPLE)(simulate.simulate_command)
app.command("emulate", epilog=simulate.EMULATE_EXAMPLE)(simulate.emulate_command)
app.command("compare", epilog=compare.EXAMPLE)(compare.command)
app.command("frontier", epilog=frontier.EXAMPLE)(frontier.command)
app.command("serve-args", epilog=serve_args.EXAMPLE)(serve_args.command)
app.command("doctor", epilog=doctor.EXAMPLE)(doctor.command)
calibrate.app.command("aiconfigurator", epilog=calibrate_aiconfigurator.EXAMPLE)(calibrate_aiconfigurator.command)
calibrate.app.command("requests", epilog=calibrate_requests.EXAMPLE)(calibrate_requests.command)
calibrate.app.command("server", epilog=calibrate_server.EXAMPLE)(calibrate_server.command)
app.add_typer(calibrate.app, name="calibrate")
app.add_typer(trace.app, name="trace")
app.add_typer(experiment.app, name="experiment")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fluidgate {version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Decide when LLM requests may enter the GPU, so that the KV cache stays full without overflowing."""


def _spread_goodput(arguments: list[str]) -> list[str]:
    """`--goodput a:1 b:2`, as `vllm bench serve` takes it, becomes one option per objective."""
    spread: list[str] = []
    after_goodput = False
    for argument in arguments:
        follows = after_goodput and ":" in argument and not argument.startswith("-")
        if follows and spread[-1] != "--goodput":
            spread.append("--goodput")
        spread.append(argument)
        after_goodput = argument == "--goodput" or follows
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
        app(_spread_goodput(sys.argv[1:]))
    except FluidgateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except MemoryError:
        print("error: this machine has too little memory; use fewer requests or KV blocks", file=sys.stderr)
        sys.exit(1)
    except _Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(130)
