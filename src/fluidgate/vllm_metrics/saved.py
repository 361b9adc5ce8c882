"""Pages and logs in files."""

from __future__ import annotations

import shlex
from pathlib import Path

from fluidgate.errors import InputError
from fluidgate.input import read_text
from fluidgate.vllm_metrics.address import without_credentials
from fluidgate.vllm_metrics.scrape import Scrape


def read_page(path: Path | str) -> Scrape:
    """The page of metrics in a file. Errors: InputError if it cannot be read, or is none of vLLM's."""
    return Scrape.of(saved_page(path), str(path))


def saved_page(path: Path | str) -> str:
    """The text of a page or a log in a file. Errors: InputError if it cannot be read or is empty."""
    advice = f"give the last part of it, for example `tail -n 100000 {shlex.quote(str(path))} > last.log`"
    try:
        text = read_text(Path(path), advice, errors="replace")
    except OSError as error:
        hint = "; an address begins with http://" if ":" in str(path) else ""
        raise InputError(f"{without_credentials(str(path))}: cannot be read ({error.strerror}){hint}") from None
    if not text.strip():
        raise InputError(f"{path}: is empty; save a scrape: `curl http://HOST:8000/metrics > scrape.txt`")
    return text
