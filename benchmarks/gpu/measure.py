"""Step times of an engine over a grid of batches, and the `StepTime` fitted to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from engine import Batch, Engine
from fluidgate.arrays import IntArray
from fluidgate.hardware import FitReport, StepTime, fit_step_time

DECODES = (1, 8, 32, 64, 128, 256)
CONTEXTS = (64, 256, 512, 1024, 2048)
CHUNKS = (16, 64, 256, 512, 1024, 2048)
BEFORE = (0, 512, 2048)
MIXED_DECODES, MIXED_CONTEXTS, MIXED_CHUNKS = (4, 16, 64, 160), (128, 512), (64, 512, 1536)
PROMPTS, PROMPT_TOKENS = (4, 16, 32), 60

LEAST_FIXED_SHARE = 0.01
"""Of the shortest step, taken where none is seen."""

WARMUPS, REPEATS = 2, 5


@dataclass(frozen=True)
class Shape:
    """A batch to measure: per request the tokens in the KV cache and the tokens to compute."""

    kind: str
    before: tuple[int, ...]
    new: tuple[int, ...]

    @property
    def after(self) -> tuple[int, ...]:
        """Per request its tokens in the KV cache at the end of the step."""
        return tuple(before + new for before, new in zip(self.before, self.new, strict=True))


@dataclass(frozen=True)
class Point:
    """A measured step, in the terms of `StepTime`."""

    kind: str
    tokens: int
    kv_tokens: int
    attention_pairs: int
    sequences: int
    seconds: float


def grid() -> Iterator[Shape]:
    """Decodes of equal and of spread contexts, prefill chunks, several prompts at once, and decodes beside a chunk."""
    for count in DECODES:
        for context in CONTEXTS:
            yield Shape("decode", (context - 1,) * count, (1,) * count)
            if count > 1:
                spread = np.linspace(0.25, 1.75, count) * context
                yield Shape("decode, spread", tuple(int(tokens) - 1 for tokens in spread), (1,) * count)
    for chunk in CHUNKS:
        for before in BEFORE:
            yield Shape("prefill" if before == 0 else "prefill, later chunk", (before,), (chunk,))
    for count in PROMPTS:
        yield Shape("prompts", (0,) * count, (PROMPT_TOKENS,) * count)
    for count in MIXED_DECODES:
        for context in MIXED_CONTEXTS:
            for chunk in MIXED_CHUNKS:
                yield Shape("mixed", (context - 1,) * count + (0,), (1,) * count + (chunk,))


def measure(engine: Engine, shapes: Sequence[Shape], progress: Callable[[str], None]) -> list[Point]:
    """The median step time of every shape that fits the engine's KV cache; the largest first, to settle memory."""
    capacity = engine.kv.shape[2] - 1
    fitting = [shape for shape in shapes if _blocks(shape, engine.block_size).sum() <= capacity]
    fitting.sort(key=lambda shape: -sum(shape.after))
    points = []
    for shape in fitting:
        point = _point(engine, shape)
        points.append(point)
        progress(f"{point.kind}: {point.tokens} tokens, {point.kv_tokens:,} KV tokens, {1e3 * point.seconds:.2f} ms")
    return points


def fitted(points: Sequence[Point]) -> tuple[StepTime, FitReport]:
    """The step time that describes the points best; see `fit_step_time`."""
    names = ("tokens", "kv_tokens", "attention_pairs", "sequences", "seconds")
    columns = ([getattr(point, name) for point in points] for name in names)
    step_time, report = fit_step_time(*columns, kind=[point.kind for point in points])
    return with_fixed_time(step_time, points), report


def with_fixed_time(step_time: StepTime, points: Sequence[Point]) -> StepTime:
    """With a share of the shortest step as its fixed time, where noise, as on a busy CPU, hid that: plans need one."""
    if step_time.c0 > 0.0:
        return step_time
    return replace(step_time, c0=LEAST_FIXED_SHARE * min(point.seconds for point in points))


def _blocks(shape: Shape, block_size: int) -> IntArray:
    return -(-np.array(shape.after) // block_size)


def _point(engine: Engine, shape: Shape) -> Point:
    before, new = np.array(shape.before), np.array(shape.new)
    needed = _blocks(shape, engine.block_size)
    first = 1 + np.cumsum(needed) - needed
    batch = Batch(
        rows=np.arange(len(new)),
        before=before,
        new=new,
        known=before + new,
        blocks=first[:, None] + np.arange(needed.max()),
    )
    engine.load(before + new, np.ones(len(new), np.int64))
    seconds = [engine.run(batch) for _ in range(WARMUPS + REPEATS)][WARMUPS:]
    pairs = new * before + new * (new + 1) // 2
    return Point(
        kind=shape.kind,
        tokens=int(new.sum()),
        kv_tokens=int((before + new).sum()),
        attention_pairs=int(pairs[new > 1].sum()),
        sequences=len(new),
        seconds=float(median(seconds)),
    )
