"""Fit the synthetic presets to the real traces, and measure how well the committed ones fit.

Run `python tools/fit_presets.py [folder]` with the traces in `../shared/traces` (not part of the
repository). For every fitted preset it prints rows to paste into `presets.py` (weight, prompt mu, prompt
sigma, output mu, output sigma), then the Kolmogorov–Smirnov distances, means and correlation of the preset
as committed, and dispersion of its arrivals.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fluidgate.workload import PRESETS, Workload, generate, read_trace
from fluidgate.workload.arrivals import MMPP2
from fluidgate.workload.summary import dispersion

# preset: (trace, number of components)
FITS = {
    "azure-conv-2023": ("AzureLLMInferenceTrace_conv.csv", 6),
    "azure-code-2023": ("AzureLLMInferenceTrace_code.csv", 5),
    "r1-reasoning": ("servegen_r1_1h.csv.gz", 5),
    "sharegpt": ("sharegpt_8k_lengths.csv.gz", 6),
    "mooncake-conversation": ("conversation_trace.jsonl", 6),
}
WINDOWS_S = (0.5, 1, 2, 5, 10, 20, 30, 60, 120)
# Narrow enough for Azure's spike of answers near 406 tokens, too wide to fit a single value.
MIN_SIGMA = 0.03


def fit_mixture(log_lengths: np.ndarray, components: int, starts: int = 6, rounds: int = 400) -> np.ndarray:
    """Rows (w, mu0, sigma0, mu1, sigma1) of the diagonal Gaussian mixture, best of a few EM runs."""
    runs = [_em(log_lengths, components, rounds, np.random.default_rng(seed)) for seed in range(starts)]
    _, weights, mu, sigma = max(runs, key=lambda run: run[0])
    rows = np.column_stack([weights, mu[:, 0], sigma[:, 0], mu[:, 1], sigma[:, 1]])
    return rows[np.argsort(-weights)]


def _em(x: np.ndarray, k: int, rounds: int, rng: np.random.Generator) -> tuple:
    mu = x[rng.choice(len(x), k, replace=False)]
    sigma = np.tile(x.std(0), (k, 1))
    weights = np.full(k, 1 / k)
    for _ in range(rounds):
        z = (x[None] - mu[:, None]) / sigma[:, None]
        log_p = np.log(weights)[:, None] - (0.5 * z**2 + np.log(sigma)[:, None]).sum(2)
        top = log_p.max(0)
        share = np.exp(log_p - top)
        total = share.sum(0)
        share /= total
        mass = share.sum(1) + 1e-9
        weights, mu = mass / mass.sum(), share @ x / mass[:, None]
        spread = np.stack([(share * (x[None, :, j] - mu[:, j, None]) ** 2).sum(1) / mass for j in (0, 1)], 1)
        sigma = np.sqrt(np.maximum(spread, MIN_SIGMA**2))
    return float((top + np.log(total)).mean()), weights, mu, sigma


def fit_on_off(arrival_s: np.ndarray) -> MMPP2:
    """The MMPP2 of the trace's rate whose index of dispersion is nearest, in the logarithm."""
    rate = (len(arrival_s) - 1) / (arrival_s[-1] - arrival_s[0])
    windows = np.array(WINDOWS_S)
    target = np.log([dispersion(arrival_s, window) for window in WINDOWS_S])
    best, chosen = np.inf, None
    for high in np.linspace(0.02, 0.9, 89):
        for low_over_mean in np.linspace(0, 0.9, 19):
            low_rate = low_over_mean * rate
            high_rate = (rate - (1 - high) * low_rate) / high
            for memory_s in np.geomspace(0.5, 200, 80):
                step = windows / memory_s
                variance = high * (1 - high) * (high_rate - low_rate) ** 2
                excess = 2 * variance * memory_s / rate * (1 - (1 - np.exp(-step)) / step)
                error = ((np.log1p(excess) - target) ** 2).sum()
                if error < best:
                    best, chosen = error, (low_rate, high_rate, memory_s / high, memory_s / (1 - high))
    return MMPP2(*(round(float(value), 3) for value in chosen))


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov–Smirnov distance of two samples."""
    grid = np.union1d(a, b)
    cdfs = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (a, b)]
    return float(abs(cdfs[0] - cdfs[1]).max())


def report(name: str, trace: Workload) -> None:
    """Print how the committed preset compares with the trace."""
    made = generate(name, n=200_000, seed=1)
    for column in ("prompt_tokens", "output_tokens"):
        real, drawn = getattr(trace, column), getattr(made, column)
        print(
            f"  {column}: KS {ks(real, drawn):.3f}, mean {drawn.mean():.0f} (trace {real.mean():.0f}), ",
            end="",
        )
        print(f"p99 {np.quantile(drawn, 0.99):.0f} (trace {np.quantile(real, 0.99):.0f})")
    pair = [np.corrcoef(w.prompt_tokens, w.output_tokens)[0, 1] for w in (made, trace)]
    print(f"  correlation {pair[0]:.3f} (trace {pair[1]:.3f})")
    if trace.duration_s > 0:
        both = [(dispersion(made.arrival_s, w), dispersion(trace.arrival_s, w)) for w in (1, 10, 60)]
        print("  dispersion at 1, 10, 60 s: " + ", ".join(f"{a:.2f} (trace {b:.2f})" for a, b in both))


def main() -> None:
    """Fit every preset and report."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "traces"
    for name, (file, components) in FITS.items():
        options = {"jitter_seed": 0} if file.endswith(".jsonl") else {}
        trace, note = read_trace(folder / file, **options)
        print(f"{name}: {note}; rate {trace.rate:.3f}/s")
        lengths = np.column_stack([trace.prompt_tokens, trace.output_tokens])
        # Rounding up moves a length by half a token on average.
        rows = fit_mixture(np.log(lengths - 0.5), components)
        for row in rows:
            print("    (" + ", ".join(f"{value:.3f}" for value in row) + "),")
        print(f"  maxima {lengths.max(0).tolist()}")
        if name == "azure-code-2023":
            print(f"  {fit_on_off(trace.arrival_s)}")
        if name in PRESETS:
            report(name, trace)


if __name__ == "__main__":
    main()
