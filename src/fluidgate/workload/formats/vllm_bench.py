"""Results of `vllm bench serve --save-result --save-detailed` (JSON), as the workload that was sent.

Source: vllm/benchmarks/serve.py. Used: `input_lens`, `output_lens`, `start_times` (seconds on the client's
clock; absent in old versions) and `errors` (a text per request, empty when it was served).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_COUNT, MAX_SECONDS
from fluidgate.errors import InputError
from fluidgate.words import shown
from fluidgate.workload.core import Workload
from fluidgate.workload.formats._files import read_json
from fluidgate.workload.formats._finish import drop_failed, finish

_MARKS = ('"input_lens"', '"request_throughput"', '"num_prompts"', '"endpoint_type"')
_MENDS = {
    "input_lens": "run the benchmark with --save-result --save-detailed",
    "output_lens": "run the benchmark with --save-result --save-detailed",
    "start_times": "run the benchmark with a newer vLLM, which saves when each request was sent",
}


def matches(head: str) -> bool:
    """Whether the file's first characters look like this format."""
    return head.startswith("{") and any(mark in head for mark in _MARKS)


def read(path: Path, *, failed: str = "stop") -> tuple[Workload, str]:
    """The workload as it was sent, with the output lengths that came back, and a note.

    Args:
        failed: "stop" at a request with an error or without output, or "drop" such requests and report how
            many.

    Errors: InputError for a missing list, and at the first request that cannot be used.
    """
    result = read_json(path)
    if not isinstance(result, dict):
        raise InputError(f"{path}:1: not a JSON object; give the result file of vllm bench serve")
    prompt, output, start_s = (_numbers(path, result, key) for key in _MENDS)
    count = len(prompt)
    errors = result.get("errors") or [""] * count
    if not isinstance(errors, list):
        raise InputError(f"{path}: errors is not a list; the file is damaged, run the benchmark again")
    for key, values in (("output_lens", output), ("start_times", start_s), ("errors", errors)):
        if len(values) != count:
            what = f"{key} has {len(values)} entries and input_lens {count}"
            raise InputError(f"{path}: {what}; the file is damaged, run the benchmark again")
    bad = np.array([bool(error) for error in errors]) | (output == 0)
    first = int(np.argmax(bad))
    why = f"failed ({errors[first] or 'no output'!s:.80})" if bad.any() else ""
    keep, remarks = drop_failed(path, failed, bad, f": request {first}", why)
    for key, values in (("input_lens", prompt), ("output_lens", output)):
        _refuse_where(path, key, values, keep & ((values < 1) | (values > MAX_COUNT) | (values != np.floor(values))))
    return finish(
        path,
        start_s[keep],
        prompt[keep].astype(np.int64),
        output[keep].astype(np.int64),
        rows=count,
        remarks=remarks,
    )


def _numbers(path: Path, result: dict[str, Any], key: str) -> FloatArray:
    values = result.get(key)
    if values is None:
        raise InputError(f"{path}: no {key!r} in the result; {_MENDS[key]}")
    if not isinstance(values, list) or not values:
        raise InputError(f"{path}: {key} is not a list of numbers, or empty; run the benchmark again")
    for number, value in enumerate(values):
        if type(value) not in (int, float) or not abs(value) <= MAX_SECONDS:  # lengths are far below that, too
            raise InputError(
                f"{path}: request {number}: {key} = {shown(value)} is not a number below {MAX_SECONDS:g}; correct it"
            )
    return np.array(values, np.float64)


def _refuse_where(path: Path, key: str, values: FloatArray, bad: Any) -> None:
    if bad.any():
        number = int(np.argmax(bad))
        what = f"{key} = {values[number]:g} is not a whole number of tokens, at least 1"
        raise InputError(f"{path}: request {number}: {what}; correct or remove it")
