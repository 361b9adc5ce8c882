"""Preset `vidur` equals Vidur's own schedulers: in its recorded runs, and a reference of them on generated loads."""

import csv
import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.workload import Workload

from .vidur_naive import VidurReplica

MODES = {"sarathi": "sarathi", "vllm": "prefill-first"}
"""Vidur's schedulers, and the modes that follow them."""
RUNS = 18
CASES = 400
EQUAL_S = 1e-6


def recorded(path: Path) -> tuple[dict[str, np.ndarray], Workload]:
    """The columns of one of Vidur's runs, and its requests."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    prompts, outputs = (columns[name].astype(int) for name in ("prompt_tokens", "output_tokens"))
    return columns, Workload(columns["arrival_s"], prompts, outputs, name=path.name)


def as_vidur_ran(workload: Workload) -> tuple[Hardware, EngineConfig]:
    """The machine of the recorded runs, and the scheduler of this one; names tell."""
    case, scheduler = workload.name.split(".")[:2]
    blocks = 900 if case.startswith("tight") else 8563
    hardware = Hardware("recorded", StepTime(0.0095, 5.5e-5, 3.4e-7, 5e-9), blocks + 1, 16)
    scheduler, _, without = scheduler.partition("-")
    options = {"decodes_need_spare_block": False} if without else {}
    return hardware, EngineConfig.preset("vidur", mode=MODES[scheduler], **options)


def test_recorded_runs(shared_dir: Path) -> None:
    """18 sets of requests under one affine step time: every first token, last token and restart."""
    files = sorted((shared_dir / "vidur").glob("*.csv.gz"))
    if not files:
        pytest.skip("needs ../shared/vidur, which is not here")
    assert len(files) == RUNS
    for path in files:
        theirs, workload = recorded(path)
        hardware, config = as_vidur_ran(workload)
        ours = run(workload, hardware, Greedy(), config)
        for time in ("first_token_s", "last_token_s"):
            late = abs(getattr(ours, time) - theirs[time])
            assert late.max() < EQUAL_S, f"{path.name}: {time} of request {late.argmax()} differs by {late.max()} s"
        assert ours.preemptions.tolist() == theirs["restarts"].tolist(), path.name


def generated(random: Random) -> tuple[Workload, Hardware, EngineConfig]:
    """Up to 30 requests in a cache that they outgrow; fewer seats than tokens in a chunk, as Vidur has."""
    block_size, n = random.choice([1, 4, 16]), random.randint(2, 30)
    prompt = np.array([random.choice([1, block_size, random.randint(1, 60)]) for _ in range(n)])
    output = np.array([random.choice([1, random.randint(1, 30), random.randint(20, 90)]) for _ in range(n)])
    spread_s = random.choice([0.5, 5.0, 40.0])
    arrival_s = np.sort([random.choice([0.0, random.randint(0, 20) / 2, spread_s * random.random()]) for _ in range(n)])
    least = int(max(-(-(prompt + output - 1) // block_size)))
    blocks = least + random.choice([0, 1, random.randint(0, 200 // block_size)])
    step_time = random.choice([StepTime(0.5), StepTime(0.25, c_tok=2**-8), StepTime(0.01, 1e-4, 1e-6, 1e-8)])
    seats = random.choice([2, 6, 15])
    mode = random.choice(list(MODES.values()))
    config = EngineConfig.preset(
        "vidur",
        mode=mode,
        max_num_seqs=seats,
        max_num_batched_tokens=random.choice([16, 40, 512]) if mode == "sarathi" else random.choice([160, 400]),
        watermark=random.choice([0.0, 0.01, 0.1]),
        decodes_need_spare_block=random.random() < 0.7,
        pad_prompt_batches=mode == "prefill-first" and random.random() < 0.7,
    )
    hardware = Hardware("generated", step_time, blocks + 1, block_size)
    return Workload(arrival_s, prompt, output, name="generated"), hardware, config


def differs_without(records: RunRecords, rule: str) -> bool:
    """Whether a rule decided something in a run."""
    config = records.config
    if not getattr(config, rule):
        return False
    without = run(records.workload, records.hardware, Greedy(), replace(config, **{rule: False}))
    return without.last_token_s.tolist() != records.last_token_s.tolist()


@pytest.mark.parametrize("part", range(4))
def test_generated_loads(part: int) -> None:
    """Both rules on and off, with evictions: the reference has the same times and restarts."""
    reached: Counter[str] = Counter()
    for seed in range(part, CASES, 4):
        workload, hardware, config = generated(Random(seed))
        records = run(workload, hardware, Greedy(), config)
        vidur = VidurReplica(workload, hardware, config)
        vidur.run()
        where = f"seed {seed}: {config}"
        assert records.preemptions.tolist() == [request.restarts for request in vidur.requests], where
        assert records.first_token_s == pytest.approx([r.first_s for r in vidur.requests], abs=EQUAL_S), where
        assert records.last_token_s == pytest.approx([r.last_s for r in vidur.requests], abs=EQUAL_S), where
        reached["restarts"] += int(records.preemptions.sum())
        for rule in ("decodes_need_spare_block", "pad_prompt_batches"):
            reached[rule] += differs_without(records, rule)
    assert reached["restarts"] > 100, reached
    assert min(reached["decodes_need_spare_block"], reached["pad_prompt_batches"]) >= 5, reached
