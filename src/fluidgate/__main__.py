"""What the `fluidgate` command and `python -m fluidgate` start."""

import sys


def main() -> None:
    """Run the command line, whose import takes a while: Ctrl-C within it is no fault to show a traceback for."""
    try:
        from fluidgate.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
