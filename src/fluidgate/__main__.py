"""What the `fluidgate` command and `python -m fluidgate` start."""

import gc
import sys


def main() -> None:
    """Run the command line; its import takes a while, and Ctrl-C during it must not print a traceback."""
    gc.set_threshold(50_000)  # imports make objects that stay: looking for garbage among them took a tenth of a command
    try:
        from fluidgate.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
