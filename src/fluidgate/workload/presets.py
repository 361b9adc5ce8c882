"""Synthetic workloads by name, and `generate`, which draws a workload from one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.bounds import MAX_RATE, MAX_REQUESTS, MIN_RATE, check_number
from fluidgate.errors import InputError, unknown
from fluidgate.workload._random import random_streams
from fluidgate.workload.arrivals import MMPP2, ArrivalProcess, Cox, Poisson
from fluidgate.workload.conversations import Conversation
from fluidgate.workload.core import Workload
from fluidgate.workload.lengths import Independent, JointLengths, JointMixture, Lengths, Types, max_entropy
from fluidgate.workload.patience import Patience


@dataclass(frozen=True)
class Synthetic:
    """A workload that can be drawn.

    Attributes:
        name: for tables.
        arrivals: when requests come.
        lengths: how long they are, and of which class.
        source: where the numbers come from.
        patience: how long clients wait.
        conversation: how requests go on as sessions; their first prompts, and all outputs, are as `lengths` has them.
            None: every request is on its own.
        concurrency: most requests in flight; None: no limit.
    """

    name: str
    arrivals: ArrivalProcess
    lengths: JointLengths
    source: str = ""
    patience: Patience = Patience()  # noqa: RUF009 - it is frozen
    conversation: Conversation | None = None
    concurrency: int | None = None


# Rows are weight, prompt mu, prompt sigma, output mu, output sigma, as tools/fit_presets.py prints them.
_AZURE_CONV = Synthetic(
    "azure-conv-2023",
    Cox(rate=5.53, s1=0.173, tau1_s=0.70, s2=0.217, tau2_s=300.0),
    JointMixture.from_rows(
        [
            (0.272, 6.977, 0.068, 6.001, 0.046),
            (0.233, 5.988, 0.039, 4.538, 0.237),
            (0.184, 5.367, 0.981, 4.621, 0.836),
            (0.178, 7.433, 0.467, 4.569, 0.478),
            (0.075, 8.315, 0.030, 3.995, 0.443),
            (0.058, 6.984, 0.064, 6.238, 0.174),
        ],
        prompt_high=14_050,
        output_high=1_000,
    ),
    "fit to the Azure LLM inference trace 2023, conversation (CC-BY-4.0)",
)
_AZURE_CODE = Synthetic(
    "azure-code-2023",
    MMPP2(rate_low=0.257, rate_high=15.655, mean_low_s=51.124, mean_high_s=9.022),
    JointMixture.from_rows(
        [
            (0.336, 7.643, 0.714, 2.253, 0.279),
            (0.245, 7.657, 0.726, 3.184, 0.629),
            (0.215, 5.481, 1.351, 2.513, 0.414),
            (0.132, 6.580, 1.444, 4.150, 0.942),
            (0.072, 7.024, 1.331, 1.705, 0.030),
        ],
        prompt_high=7_437,
        output_high=1_899,
    ),
    "fit to the Azure LLM inference trace 2023, code (CC-BY-4.0); the on/off arrivals are a rough fit",
)
_R1 = Synthetic(
    "r1-reasoning",
    Cox(rate=12.1, s1=0.554, tau1_s=0.284, s2=0.149, tau2_s=208.0),
    JointMixture.from_rows(
        [
            (0.640, 4.148, 0.771, 8.278, 0.600),
            (0.157, 7.963, 0.759, 5.621, 0.521),
            (0.130, 6.147, 1.837, 7.401, 0.934),
            (0.060, 9.908, 0.414, 7.022, 0.429),
            (0.013, 4.126, 0.030, 5.847, 0.449),
        ],
        prompt_high=44_804,
        output_high=32_545,
    ),
    "fit to an hour of DeepSeek-R1 traffic re-synthesised from ServeGen's per-client statistics (Apache-2.0)",
)
_SHAREGPT = Synthetic(
    "sharegpt",
    Poisson(1.0),
    JointMixture.from_rows(
        [
            (0.350, 7.288, 0.744, 6.146, 0.364),
            (0.177, 8.505, 0.265, 6.033, 0.478),
            (0.155, 7.513, 0.829, 4.973, 0.739),
            (0.126, 5.700, 1.801, 4.192, 1.424),
            (0.114, 3.950, 0.995, 6.310, 0.377),
            (0.079, 7.865, 0.607, 6.759, 0.102),
        ],
        prompt_high=8_141,
        output_high=1_024,
    ),
    "fit to ShareGPT lengths with history, up to 8k (Apache-2.0); it has no arrivals: Poisson, set the rate",
)
_MOONCAKE = Synthetic(
    "mooncake-conversation",
    Poisson(3.40),
    JointMixture.from_rows(
        [
            (0.373, 9.200, 0.941, 6.068, 0.255),
            (0.228, 8.957, 1.114, 3.606, 1.694),
            (0.226, 9.098, 0.839, 5.778, 0.586),
            (0.074, 7.206, 0.213, 5.837, 0.559),
            (0.059, 6.809, 0.030, 5.960, 0.385),
            (0.041, 6.819, 0.030, 3.694, 1.473),
        ],
        prompt_high=126_195,
        output_high=2_000,
    ),
    "lengths and rate fit to the Mooncake FAST'25 conversation trace (Apache-2.0), without its prefixes",
)
_LMSYS = Synthetic(
    "lmsys",
    Poisson(50.0),
    Independent(
        prompt=max_entropy((21, 499), (0.5, 0.5), mean=58.6),
        output=max_entropy((50, 116, 300, 499), (0.31, 0.19, 0.36, 0.14), mean=147.3),
    ),
    "largest entropy under the LMSYS-Chat facts of arXiv 2504.11320: prompt mean 58.6, median 21; "
    "output mean 147.3, median 116, 31% up to 50, 14% above 300; both below 500",
)


def _types(name: str, prompt: int, outputs: tuple[int, ...], weights: tuple[float, ...], rate: float) -> Synthetic:
    names = tuple(f"p{prompt}-d{output}" for output in outputs)
    lengths = Types((prompt,) * len(outputs), outputs, weights, names)
    return Synthetic(name, Poisson(rate), lengths, "exact types of arXiv 2504.11320, Poisson; set the rate")


PRESETS: dict[str, Synthetic] = {
    preset.name: preset
    for preset in (
        _AZURE_CONV,
        _AZURE_CODE,
        _R1,
        _SHAREGPT,
        _MOONCAKE,
        _LMSYS,
        _types("p512-d20", 512, (20,), (1,), rate=1.0),
        _types("p512-d1000", 512, (1000,), (1,), rate=1.0),
        _types("p630-d20", 630, (20,), (1,), rate=1.0),
        _types("p512-d20-d50-mix", 512, (20, 50), (0.7, 0.3), rate=1.0),
        _types("three-types", 20, (100, 200, 300), (6, 4, 8), rate=18.0),
    )
}


def generate(
    what: str | Synthetic | tuple[ArrivalProcess, Lengths, Lengths],
    *,
    n: int | None = None,
    duration_s: float | None = None,
    rate: float | None = None,
    seed: int = 0,
) -> Workload:
    """Draw a synthetic workload.

    Arrivals, prompts and outputs have separate random streams, so that one seed gives the same lengths at
    every rate and the same arrivals, only faster or slower (correlation times scale too). Longer draws
    extend shorter ones.

    Args:
        what: a key of `PRESETS`, a `Synthetic`, or (arrivals, prompt lengths, output lengths).
        n: how many requests; or else
        duration_s: all requests that arrive, or whose sessions begin, before this time.
        rate: requests per second in place of the process's own.
        seed: same seed, same bits.

    Errors: InputError for an unknown preset, and unless exactly one of `n` and `duration_s` is given.
    """
    spec = _spec(what)
    speed = _speed(spec.arrivals.rate, rate)
    if (n is None) == (duration_s is None):
        raise InputError("give either n, the number of requests, or duration_s, the time they arrive in")
    if n is not None and not 1 <= n <= MAX_REQUESTS:
        raise InputError(f"n = {n} must be between 1 and {MAX_REQUESTS:,} requests")
    drawn = _sessions if spec.conversation is not None else _requests
    workload = drawn(spec, n, duration_s, speed, seed)
    name = spec.name if rate is None else f"{spec.name} at {rate:g}/s"
    workload = replace(workload, name=name, class_names=spec.lengths.class_names, concurrency=spec.concurrency)
    return spec.patience.of(workload, seed)


def _requests(spec: Synthetic, n: int | None, duration_s: float | None, speed: float, seed: int) -> Workload:
    arrival_stream, length_stream = random_streams(seed, 2)
    arrival_s = _arrivals(spec.arrivals, n, duration_s, speed, arrival_stream)
    prompt, output, class_id = spec.lengths.sample(len(arrival_s), np.random.default_rng(length_stream))
    return Workload(arrival_s, prompt, output, class_id, spec.lengths.class_names)


def _sessions(spec: Synthetic, n: int | None, duration_s: float | None, speed: float, seed: int) -> Workload:
    """Sessions that begin at the rate of requests ÷ turns; of n requests, those with the earliest times."""
    assert spec.conversation is not None
    arrival_stream, length_stream, turn_stream = random_streams(seed, 3)
    turns = spec.conversation.turns
    begun = None if n is None else -(-n // turns)
    begin_s = _arrivals(spec.arrivals, begun, duration_s, speed / turns, arrival_stream)
    prompt, output, class_id = spec.lengths.sample(turns * len(begin_s), np.random.default_rng(length_stream))
    drawn, rows = spec.conversation.drawn(begin_s, prompt[::turns], output, np.random.default_rng(turn_stream))
    drawn = replace(drawn, class_id=class_id[rows], class_names=spec.lengths.class_names)
    first = np.arange(len(drawn) if n is None else n)
    return drawn if len(first) == len(drawn) else drawn.reordered(first, drawn.arrival_s[first])


def _arrivals(
    arrivals: ArrivalProcess, n: int | None, duration_s: float | None, speed: float, stream: np.random.SeedSequence
) -> FloatArray:
    if n is None:
        return _until(arrivals, float(duration_s or 0), speed, stream)
    return arrivals.sample(n, np.random.default_rng(stream)) / speed


def _spec(what: str | Synthetic | tuple[ArrivalProcess, Lengths, Lengths]) -> Synthetic:
    if isinstance(what, Synthetic):
        return what
    if isinstance(what, tuple):
        arrivals, prompt, output = what
        return Synthetic("synthetic", arrivals, Independent(prompt, output))
    if what not in PRESETS:
        raise unknown("preset", what, PRESETS)
    return PRESETS[what]


def _speed(own_rate: float, rate: float | None) -> float:
    if rate is None:
        return 1.0
    if not (np.isfinite(rate) and rate > 0):
        raise InputError(f"rate = {rate} must be a finite number of requests per second, above 0")
    check_number("rate", rate, MIN_RATE, MAX_RATE, "requests per second")
    if not np.isfinite(own_rate):
        raise InputError("arrivals all at once have no rate to change; leave rate out or choose another process")
    return rate / own_rate


def _until(arrivals: ArrivalProcess, duration_s: float, speed: float, stream: np.random.SeedSequence) -> FloatArray:
    """Every arrival before `duration_s`: draw more until the last one is later."""
    expected = arrivals.rate * speed * duration_s
    if not (np.isfinite(duration_s) and duration_s > 0):
        raise InputError(f"duration_s = {duration_s} must be a finite number of seconds, above 0")
    if not expected <= MAX_REQUESTS:
        raise InputError(f"{expected:.3g} requests would arrive in {duration_s:g} s; shorten it, or give n instead")
    n = int(expected + 6 * np.sqrt(expected)) + 16
    while True:
        fresh = np.random.SeedSequence(stream.entropy, spawn_key=stream.spawn_key)
        arrival_s = arrivals.sample(n, np.random.default_rng(fresh)) / speed
        if arrival_s[-1] >= duration_s:
            break
        n *= 2
    within = arrival_s[arrival_s < duration_s]
    if len(within) == 0:
        raise InputError(f"no request arrives within {duration_s:g} s at this seed; lengthen it, or give n instead")
    return within
