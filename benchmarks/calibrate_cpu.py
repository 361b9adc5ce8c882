"""A running vLLM calibrated from outside, then its latencies under other loads predicted, on this machine's CPU.

    make bench-calibrate     or, where vLLM is installed: python benchmarks/calibrate_cpu.py [seconds of calibration]

A Llama with random weights: how close the prediction comes, not how fast a model is on a GPU. The requests of each load
are simulated as they were sent, with the server's own settings.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2e.calibrated import METRICS, Load, calibrate, calibrated_server, measured, predicted
from fluidgate.hardware import read_hardware

LOADS = (
    Load("light, mixed lengths", rate=3.0, prompt_tokens=100, output_tokens=80, spread=0.8, requests=120),
    Load("busy, mixed lengths", rate=6.0, prompt_tokens=100, output_tokens=80, spread=0.8, requests=180),
    Load("KV pressure", rate=6.0, prompt_tokens=180, output_tokens=200, spread=0.3, requests=100),
)
REPEATS = 2


def main() -> None:
    time_s = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    with calibrated_server() as server, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "hardware.json")
        report = calibrate(server, path, time_s)
        for name, half_width in zip(report["step_time"], report["calibration"]["plus_minus"], strict=True):
            print(f"{name} = {report['step_time'][name]:.3g} ± {half_width:.2g} s")
        print(f"{report['steps']} steps; noise {report['noise']:.1%}, misfit {report['calibration']['misfit']:.1%}")
        print(f"| load | | {' | '.join(METRICS)} |")
        for load in LOADS * REPEATS:
            truth = measured(server, load, Path(folder))
            guess = predicted(truth.sent, read_hardware(path))
            for what, values in (("measured", truth.metrics), ("predicted", guess)):
                print(
                    f"| {load.name} | {what} | {' | '.join(f'{values[name]:,.1f}' for name in METRICS)} |", flush=True
                )


if __name__ == "__main__":
    main()
