"""`fluidgate calibrate vidur` as a user types it."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from fluidgate.hardware import find_model

from ..calibration.vidur_files import write_all_reduce, write_profile
from .calls import fluidgate_run, good


def test_a_file_that_simulate_takes(tmp_path: Path) -> None:
    files = write_profile(tmp_path, find_model("llama-2-7b"))
    out, plot = tmp_path / "hardware.json", tmp_path / "steps.svg"
    done = good(
        *("calibrate", "vidur", *files, "--model", "llama-2-7b", "--gpu", "a100-80gb", "--out", out, "--plot", plot)
    )
    assert "llama-2-7b on a100-80gb (vidur)" in done.stdout
    assert "16 requests, 1,024 tokens in a step" in done.stdout
    ElementTree.parse(plot)
    load = ("--preset", "p512-d20", "--rate", "2", "--requests", "50", "--policy", "greedy", "--format", "json")
    simulated = json.loads(good("simulate", "--hardware", out, *load).stdout)
    assert simulated[0]["completed"] == 50


def test_two_gpus_as_json(tmp_path: Path) -> None:
    shape = find_model("llama-2-7b")
    files, reduce = write_profile(tmp_path, shape, tp=2), write_all_reduce(tmp_path, shape, 2)
    model = ("--model", "llama-2-7b", "--gpu", "a100-80gb", "--tp", "2", "--all-reduce", reduce)
    told = json.loads(
        good("calibrate", "vidur", *files, *model, "--out", tmp_path / "h.json", "--format", "json").stdout
    )
    assert told["name"] == "llama-2-7b on 2 × a100-80gb (vidur)"
    assert set(told["interpolation_error"]) == {"decode", "prefill", "chunk"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gpu", "a100-80gb"), "do not name GPU and model: add --gpu, and --model or --model-config"),
        (("--model", "llama-2-7b"), "do not name GPU and model"),
        (("--model", "llama-2-7b", "--gpu", "a100-80gb", "--tp", "2"), "nothing is measured with"),
        (("--model", "qwen2.5-7b", "--gpu", "a30"), "nothing is measured with"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    files = write_profile(tmp_path, find_model("llama-2-7b"))
    done = fluidgate_run("calibrate", "vidur", *files, *options, "--out", tmp_path / "h.json")
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
