"""Steps of a running server, as its counters show them: `Look`, and the mean steps between looks.

vLLM records its counters once per iteration that gives a token, when its frontend has read the iteration's output
(v1/engine/async_llm.py, v1/metrics/stats.py). The step time is affine, so the mean of n steps lies on the same plane as
each of them, and n is what `vllm:iteration_tokens_total` counts. Three things are not what their names say:

- A prompt is credited, whole, to the iteration of its first token. With prompts within the token budget every iteration
  gives a token and the credit is late by at most one iteration; longer ones would take iterations that are not counted.
- The first token comes with the prompt: that iteration counts prompt + 1 tokens where prompt tokens were computed.
- `vllm:kv_cache_usage_perc` counts blocks: full or not, once where requests share them, and after requests that ended
  have left. Prompts started less prompts finished, plus outputs of the same, is the sum of the context lengths exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from fluidgate.calibration.points import StepPoints, points_of
from fluidgate.errors import InputError
from fluidgate.vllm_metrics import Histogram, Scrape

MIN_WINDOW_S = 1.0
"""Answers to scrapes are late by a few ms, more where the server's cores are busy: 1% of a second."""
MIN_ITERATIONS = 10


class Counters(NamedTuple):
    """Counts since the server's start; tokens, requests and iterations."""

    iterations: float
    prompt: float
    cached: float
    generated: float
    first_tokens: float
    finished: float
    finished_prompt: float
    finished_generated: float
    preemptions: float

    @classmethod
    def of(cls, scrape: Scrape) -> Counters:
        """Those of a page."""
        prompts, outputs = _histogram(scrape, "request_prompt_tokens"), _histogram(scrape, "request_generation_tokens")
        return cls(
            iterations=_histogram(scrape, "iteration_tokens_total").count,
            prompt=scrape.total("vllm:prompt_tokens_total"),
            cached=scrape.total("vllm:prompt_tokens_cached_total"),
            generated=scrape.total("vllm:generation_tokens_total"),
            first_tokens=_histogram(scrape, "time_to_first_token_seconds").count,
            finished=prompts.count,
            finished_prompt=prompts.total,
            finished_generated=outputs.total,
            preemptions=scrape.total("vllm:num_preemptions_total"),
        )

    def since(self, earlier: Counters) -> Counters:
        """What was added after `earlier`.

        Raises:
            InputError: a count fell.
        """
        added = Counters(*(now - before for now, before in zip(self, earlier, strict=True)))
        if min(added) < 0:
            raise InputError("the server's counters fell: it was started again while it was measured; calibrate again")
        return added

    @property
    def context(self) -> float:
        """Context lengths of the requests that run, summed; the last token of each is not computed yet."""
        ended = self.finished_prompt + self.finished_generated - self.finished
        return self.prompt + self.generated - self.first_tokens - ended


@dataclass(frozen=True)
class Look:
    """A server at one moment of a phase.

    Attributes:
        taken_s: when its answer arrived.
        running, waiting: requests.
        counters: since the phase began, when the server was idle.
        kv_use: share of its KV blocks in use.
        log_bytes: how long the server's log was.
    """

    taken_s: float
    running: float
    waiting: float
    counters: Counters
    log_bytes: int = 0
    kv_use: float = 0.0

    @classmethod
    def of(cls, scrape: Scrape, began: Counters, log_bytes: int = 0) -> Look:
        """From a page, after one of the idle server."""
        (moment,) = scrape.moments()
        assert scrape.taken_s is not None
        counters = Counters.of(scrape).since(began)
        return cls(scrape.taken_s, moment.running, moment.waiting, counters, log_bytes, moment.kv_use)


@dataclass(frozen=True)
class Window:
    """Successive looks at an engine that was busy all the time."""

    looks: tuple[Look, ...]

    @property
    def duration_s(self) -> float:
        """From the first look to the last."""
        return self.looks[-1].taken_s - self.looks[0].taken_s

    @property
    def added(self) -> Counters:
        """What was counted from the first look to the last."""
        return self.looks[-1].counters.since(self.looks[0].counters)

    @property
    def long_enough(self) -> bool:
        """Whether the lateness of looks, and of what they count, is small against it."""
        return self.duration_s >= MIN_WINDOW_S and self.added.iterations >= MIN_ITERATIONS

    def mean_step(self, prompt_tokens: float, cached_prefix: float) -> tuple[float, float, float, float, float]:
        """Tokens, KV tokens, attention pairs, sequences and seconds of its mean step.

        Every request scheduled gives a token, if prompts take one iteration each: so many are scheduled.

        Args:
            prompt_tokens: of every prompt.
            cached_prefix: those of them that the prefix cache spares where it knows the prompt.
        """
        added = self.added
        entered = added.prompt + added.generated - added.first_tokens
        left = added.finished_prompt + added.finished_generated - added.finished
        # A step ends with the context before it and its own tokens; between looks the context is taken as linear.
        area = sum(
            (after.taken_s - look.taken_s) * (after.counters.context + look.counters.context) / 2
            for look, after in pairwise(self.looks)
        )
        pairs = (added.prompt * (prompt_tokens + 1) - added.cached * (cached_prefix + 1)) / 2
        return (
            (entered - added.cached) / added.iterations,
            area / self.duration_s + (entered + left) / 2 / added.iterations,
            max(pairs, 0.0) / added.iterations,
            added.generated / added.iterations,
            self.duration_s / added.iterations,
        )


@dataclass(frozen=True)
class PhaseLooks:
    """Looks at one phase.

    Attributes:
        name: of the phase.
        concurrency: requests that it keeps in flight.
        looks: in order, from the first at which a request ran.
        block_size: tokens per KV block.
    """

    name: str
    concurrency: int
    block_size: int
    looks: list[Look] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> float:
        """Mean prompt as the server counts it."""
        last = self.looks[-1].counters
        return last.prompt / last.first_tokens if last.first_tokens else 0.0

    @property
    def cached_prefix(self) -> float:
        """The most tokens of a prompt that a prefix cache spares: full blocks that leave one token to compute."""
        return max(0.0, (self.prompt_tokens - 1) // self.block_size * self.block_size)

    def windows(self) -> Iterator[Window]:
        """The loaded part in windows that are long enough; an unfinished one at the end is left out."""
        looks: tuple[Look, ...] = ()
        for before, look in pairwise(self.looks):
            if not (before.running and look.running):
                looks = ()
                continue
            looks = (*(looks or (before,)), look)
            if (window := Window(looks)).long_enough:
                yield window
                looks = ()

    def calm_windows(self) -> list[Window]:
        """The windows without a preemption, which computes tokens again that no counter shows."""
        return [window for window in self.windows() if not window.added.preemptions]


def mean_steps(phases: Sequence[PhaseLooks]) -> StepPoints:
    """One mean step per window, in the terms of `StepTime`."""
    rows = [
        (phase.name, *window.mean_step(phase.prompt_tokens, phase.cached_prefix))
        for phase in phases
        for window in phase.calm_windows()
    ]
    return points_of(rows)


def _histogram(scrape: Scrape, name: str) -> Histogram:
    histogram = scrape.histogram(name)
    if histogram is None:
        raise InputError(f"{scrape.where}: has no vllm:{name} any more; was the server changed while it was measured?")
    return histogram
