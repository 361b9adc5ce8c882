"""Which column is what: names that tools give them, and names that the user gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fluidgate.errors import InputError

KNOWN = {
    quantity: tuple(names.split())
    for quantity, names in {
        "time": """
            arrivedat arrival arrivaltime arrivaltimestamp requeststarttime requeststart requesttimestamp requesttime
            requestedat submittedat receivedat sentat timestampstart starttime startedat startdate start createdat
            created timestamp datetime asctime ts time date t""",
        "prompt": """
            prompttokens inputtokens numprompttokens numinputtokens nprompttokens promptlen promptlength inputlen
            inputlength contexttokens requesttokens numprefilltokens prefilltokens prompttokencount inputtokencount
            tokensprompt tokensinput tokensin inputsequencelength isl prompt in""",
        "output": """
            completiontokens outputtokens numcompletiontokens numoutputtokens ncompletiontokens numgeneratedtokens
            numgenerationtokens generatedtokens generationtokens responsetokens numdecodetokens decodetokens
            completionlen completionlength outputlen outputlength responselen responselength generatedlen
            completiontokencount outputtokencount candidatestokencount tokenscompletion tokensoutput tokensout
            outputsequencelength osl output completion out""",
        "class": "class tenant",
        "session": "",
        "timeout": "timeouts",
        "ttft_timeout": "ttfttimeouts",
    }.items()
}
"""Per quantity, names of its column, best first, without case, spaces and punctuation.

From the traces of Azure, BurstGPT, Mooncake and Vidur, the results of vLLM, SGLang, guidellm and aiperf, the usage
objects of the APIs of OpenAI, Anthropic, Gemini and Bedrock, and the logs of LiteLLM, OpenRouter, Langfuse and
OpenTelemetry.
"""
NEEDED = ("time", "prompt", "output")
NONE = "none"
"""In place of a column: the file has none."""

_UNITS = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms", "milli", "millis", "millisecond", "milliseconds"),
    "us": ("us", "µs", "μs", "micro", "micros", "microsecond", "microseconds"),
    "ns": ("ns", "nano", "nanos", "nanosecond", "nanoseconds"),
}
_BY_WORD = {word: unit for unit, words in _UNITS.items() for word in words}
_WORDS = re.compile(r"[A-Z]?[a-zµμ]+|[A-Z]+(?![a-z])|\d+")


def parse_columns(text: str | None) -> dict[str, str]:
    """The mapping written as `time=ts,prompt=prompt_len`; empty for None.

    Raises:
        InputError: it is no such list, or names a quantity that is not one of `KNOWN`, or one twice.
    """
    columns: dict[str, str] = {}
    for part in text.split(",") if text is not None else ():
        quantity, equals, column = (piece.strip() for piece in part.partition("="))
        if not (equals and column) or quantity in columns:
            raise InputError(f"--columns {text!r:.80}: write what=COLUMN, such as time=ts,prompt=prompt_len, each once")
        columns[quantity] = column
    check_quantities(columns)
    return columns


def check_quantities(columns: Mapping[str, str]) -> None:
    """Refuse a mapping of what is no quantity of a request."""
    for quantity in columns:
        if quantity not in KNOWN:
            raise InputError(f"columns: {quantity!r:.40} is not known; use {', '.join(KNOWN)}")


def unit_in(name: str) -> str | None:
    """The unit of time that a column's name ends in, as `timestamp_ms` and `startTimeUnixNano` do; None: none."""
    words = _words(name)
    return _BY_WORD.get(words[-1]) if len(words) > 1 else None


def matches(quantity: str, names: Sequence[str]) -> list[str]:
    """The columns with the best known name of the quantity: one, none, or several that are as good."""
    keys = [_keys(quantity, name) for name in names]
    for alias in KNOWN[quantity]:
        found = [(keyed.index(alias), name) for name, keyed in zip(names, keys, strict=True) if alias in keyed]
        if found:
            depth = min(found)[0]
            return [name for at, name in found if at == depth]
    return []


def _keys(quantity: str, name: str) -> list[str]:
    """How the column could be called, most of its path first: `usage.prompt_tokens` is `prompt_tokens`, too."""
    parts = name.split(".")
    tails = [".".join(parts[i:]) for i in range(len(parts))]
    keys = []
    for tail in tails:
        words = _words(tail)
        if quantity == "time" and unit_in(tail) is not None:
            words = words[:-1]
            words = words[:-1] if words[-1:] in (["unix"], ["epoch"]) and len(words) > 1 else words
        keys.append("".join(words))
    return keys


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]
