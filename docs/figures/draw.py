"""Draw the figures of the page on concepts, as SVG: python docs/figures/draw.py [--output FOLDER] [NAME ...]."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fluidgate as fg
from fluidgate.fluid import RequestMix
from fluidgate.workload import Fixed, Poisson

# Mid tones on a transparent ground can be read on light and on dark pages.
GREY, BLUE, ORANGE, GREEN, RED = "#808080", "#3d85c6", "#d9822b", "#3a9d5d", "#d1495b"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fluidgate",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY),
}
HARDWARE = ("llama-2-7b", "a100-80gb")


def life() -> Figure:
    """The KV of one request, iteration by iteration."""
    prompt, output = 6, 10
    figure, axes = plt.subplots(figsize=(6.4, 2.4))
    iterations = np.arange(1, output + 1)
    axes.bar(iterations, prompt, width=1.0, color=BLUE, alpha=0.75, edgecolor="none")
    axes.bar(iterations, iterations - 1, width=1.0, bottom=prompt, color=ORANGE, alpha=0.75, edgecolor="none")
    axes.text(5.5, prompt / 2, "prompt: l = 6 tokens", ha="center", va="center", color="#ffffff")
    axes.text(8.6, 7.6, "generated", ha="center", va="center", color="#ffffff")
    arrow = {"arrowstyle": "->", "color": GREY}
    axes.annotate("the prefill gives the first token", (1, 6.2), (0.5, 11.5), arrowprops=arrow)
    axes.annotate("the last token:\nall of it is freed", (10.6, 7), (11.2, 7), va="center")
    axes.text(0.5, 15.5, "area: a = l·o + o(o − 1)/2 = 105 KV-token-iterations")
    axes.set(xlabel="iteration", ylabel="KV tokens held", xlim=(0, 14), ylim=(0, 17), xticks=iterations)
    return figure


def greedy() -> Figure:
    """KV in use under greedy admission and under `fluid`, on the same requests at the boundary."""
    hardware = fg.get_hardware(*HARDWARE)
    workload = fg.generate("r1-reasoning", n=600, seed=1)
    at_boundary = workload.scaled(fg.plan(workload, hardware).stability.boundary_rate / workload.rate)
    figure, panels = plt.subplots(2, 1, figsize=(6.4, 3.6), sharex=True, sharey=True)
    for axes, policy in zip(panels, ("greedy", "fluid"), strict=True):
        _kv_over_time(axes, fg.simulate(at_boundary, hardware, policy, record="steps"), policy)
    panels[-1].set_xlabel("time, s")
    return figure


def cohorts() -> Figure:
    """Equal requests, all there at once: greedy admission keeps them in step, a pace spreads them."""
    hardware = fg.get_hardware(*HARDWARE)
    workload = fg.generate((Poisson(50.0), Fixed(512), Fixed(1000)), n=900, seed=1)
    figure, panels = plt.subplots(2, 1, figsize=(6.4, 3.6), sharex=True, sharey=True)
    for axes, policy in zip(panels, ("greedy", "rate-limited"), strict=True):
        _kv_over_time(axes, fg.simulate(workload, hardware, policy, record="steps"), policy)
    panels[-1].set_xlabel("time, s")
    return figure


def _kv_over_time(axes: Axes, records: fg.RunRecords, policy: str) -> None:
    steps = records.steps
    assert steps is not None
    time_s = np.linspace(steps.end_s[0], steps.end_s[-1], 500)
    used = 1.0 - steps.free_blocks / records.total_blocks
    axes.plot(time_s, 100 * used[np.searchsorted(steps.end_s, time_s)], color=BLUE, linewidth=1.0)
    bins, edges = np.histogram(steps.end_s, bins=120, weights=steps.preempted)
    struck = 0.5 * (edges[:-1] + edges[1:])[bins > 0]
    axes.plot(struck, np.full(len(struck), 108.0), "|", color=RED, markersize=7, clip_on=False)
    axes.axhline(100, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(ylabel="KV in use, %", ylim=(0, 112), yticks=(0, 50, 100))
    axes.set_title(
        f"{policy}: preemptions {int(records.preemptions.sum()):,} (red), "
        f"longest silence {records.longest_gap_s.max():,.1f} s",
        loc="left",
        fontsize=9,
    )


def load() -> Figure:
    """How the fluid equilibrium fills the cache as the load rises, and where memory begins to matter."""
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    rho = np.linspace(0.0, 1.0, 201)
    cases = (
        ("azure-conv-2023", None, GREEN),
        ("r1-reasoning", None, BLUE),
        ("azure-conv-2023", 1500, ORANGE),
    )
    for preset, blocks, colour in cases:
        hardware = fg.get_hardware(*HARDWARE, num_gpu_blocks=blocks)
        stable = fg.plan(RequestMix.from_workload(fg.generate(preset, n=4000, seed=0)), hardware).stability
        fill = rho * stable.eta / (1.0 - rho * (1.0 - stable.eta))
        name = preset if blocks is None else f"{preset}, {blocks:,} blocks"
        axes.plot(rho, 100 * fill, color=colour, label=f"{name}: η = {stable.eta:.2f}")
        if stable.onset_load is not None:
            onset = stable.onset_load
            height = 100 * onset * stable.eta / (1.0 - onset * (1.0 - stable.eta))
            axes.plot([onset, onset], [height, 100], color=colour, linewidth=0.8, linestyle=":")
            axes.plot(onset, height, "o", color=colour, markersize=5)
    axes.axhline(100, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="load ρ: arrival rate ÷ boundary", ylabel="mean KV in use, %", xlim=(0, 1.02), ylim=(0, 105))
    axes.legend(loc="upper left", title="dot: onset load")
    axes.get_legend().get_title().set_color(GREY)
    return figure


def wait() -> Figure:
    """WAIT with one type: a cohort starts when the queue has reached the threshold."""
    figure, panels = plt.subplots(1, 3, figsize=(6.4, 2.2), sharey=True)
    states = (
        ("2 wait: all pause", (2, 3, 0, 3, 3), GREY),
        ("3 wait: all run", (3, 3, 0, 3, 3), GREEN),
        ("one iteration later", (1, 3, 3, 0, 3), GREY),
    )
    for axes, (title, requests, colour) in zip(panels, states, strict=True):
        axes.bar(range(5), requests, width=0.8, color=[ORANGE, *[BLUE] * 4], alpha=0.8)
        axes.axhline(3, color=RED, linewidth=0.9, linestyle="--")
        axes.set_title(title, color=colour, fontsize=9)
        axes.set(xticks=range(5), ylim=(0, 4.2), yticks=(0, 3))
    panels[0].set(ylabel="requests", yticklabels=["0", "n = 3"])
    panels[1].set_xlabel("stage: 0 waits outside for its prefill, 1 to 4 hold KV")
    return figure


def nested() -> Figure:
    """Nested WAIT: thresholds fall from segment to segment as requests end."""
    hardware = fg.get_hardware(*HARDWARE)
    workload = fg.generate("azure-conv-2023", n=4000, seed=0)
    thresholds = fg.plan(workload, hardware).nested
    edges = np.concatenate([[0], thresholds.segments.output_edges])
    share = thresholds.thresholds / thresholds.thresholds[0]
    stage = np.arange(int(edges[-1]) + 1)
    alive = 1.0 - np.searchsorted(np.sort(workload.output_tokens), stage, side="right") / len(workload)
    figure, axes = plt.subplots(figsize=(6.4, 2.6))
    axes.stairs(share, edges, color=RED, linewidth=1.4, label="threshold n_k ÷ n₁ of segment k")
    axes.plot(stage, alive, color=BLUE, label="share of requests still generating")
    axes.fill_between(stage, alive, [*np.repeat(share, np.diff(edges)), share[-1]], color=RED, alpha=0.12)
    axes.set(xlabel="stage: output tokens so far", ylabel="share", ylim=(0, 1.05), xlim=(0, edges[-1]))
    axes.legend()
    return figure


def forecast() -> Figure:
    """The decision of `fluid`: predicted KV of the residents, without and with the head of the queue."""
    lengths = fg.generate("r1-reasoning", n=4000, seed=0).output_tokens
    draw = np.random.default_rng(3)
    output = draw.choice(lengths, size=27, p=lengths / lengths.sum())  # a long request is resident for longer
    age = (output * draw.random(27)).astype(int)
    prompt = np.full(27, 600)
    ahead = np.arange(1, 12_000, 60)
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    residents = _predicted(lengths, prompt, age, ahead)
    joined = _predicted(lengths, np.append(prompt, 30_000), np.append(age, 0), ahead)
    for (mean, spread), colour, label in (
        (residents, BLUE, "residents: mean, and two standard deviations above"),
        (joined, ORANGE, "with the head of the queue, 30,000 prompt tokens: it waits"),
    ):
        axes.plot(ahead, mean / 1e3, color=colour, label=label)
        axes.fill_between(ahead, mean / 1e3, (mean + 2.0 * spread) / 1e3, color=colour, alpha=0.25, linewidth=0)
    axes.axhline(137 * 0.98, color=RED, linewidth=1.0, linestyle="--")
    axes.text(11_900, 137 * 0.98 + 2, "98% of the cache", ha="right", color=RED)
    axes.set(xlabel="iterations from now", ylabel="KV, thousand tokens", xlim=(0, 12_000), ylim=(0, 215))
    axes.legend(loc="upper right")
    return figure


def _predicted(
    lengths: NDArray[np.int64], prompt: NDArray[np.int64], age: NDArray[np.int64], ahead: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the KV at the times `ahead`, each request alive with S(age + t)/S(age)."""
    ordered = np.sort(lengths)

    def survival(length: NDArray[np.int64]) -> NDArray[np.float64]:
        return 1.0 - np.searchsorted(ordered, length, side="right") / len(ordered)

    alive = survival(age[:, None] + ahead) / np.maximum(survival(age)[:, None], 1e-9)
    held = (prompt + age)[:, None] + ahead
    return (held * alive).sum(0), np.sqrt((held**2 * alive * (1.0 - alive)).sum(0))


FIGURES: dict[str, Callable[[], Figure]] = {
    function.__name__: function for function in (life, greedy, cohorts, load, wait, nested, forecast)
}


def main() -> None:
    """Draw what is asked for, or everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(FIGURES)}; all by default")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder for the SVG files")
    options = parser.parse_args()
    unknown = set(options.names) - set(FIGURES)
    if unknown:
        parser.error(f"no figure is called {', '.join(sorted(unknown))}; choose from {', '.join(FIGURES)}")
    options.output.mkdir(parents=True, exist_ok=True)
    mpl.use("svg")
    with plt.rc_context(STYLE):
        for name in options.names or FIGURES:
            path = options.output / f"{name}.svg"
            figure = FIGURES[name]()
            figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)
            print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
