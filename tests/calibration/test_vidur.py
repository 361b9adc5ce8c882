"""Vidur's profile files become the steps that Vidur simulates: made-up files of closed forms, and real ones."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from fluidgate.calibration import QueriedHardware, calibrate_vidur
from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.hardware import ModelShape, Serving, StepGrid, find_gpu, find_model, read_hardware, write_hardware
from fluidgate.hardware.knots import TOKEN_KNOTS_PER_OCTAVE, knots
from fluidgate.policies import Greedy
from fluidgate.workload import Workload

from .vidur_files import REDUCE_MS, SAVE_MS, decode_ms, linear_ms, prefill_ms, write_all_reduce, write_profile

LLAMA, QWEN = find_model("llama-2-7b"), find_model("qwen2.5-7b")
A100, A30 = find_gpu("a100-80gb"), find_gpu("a30")
OPERATIONS = 9


def calibrated(folder: Path, shape: ModelShape = LLAMA) -> StepGrid:
    grid = calibrate_vidur(*write_profile(folder, shape), shape, A100).hardware.grid
    assert grid is not None
    return grid


def linear_step_ms(tokens: int) -> float:
    """All linear operations and writing the KV, in a layer."""
    return OPERATIONS * linear_ms(tokens) + SAVE_MS * tokens


def seconds(grid: StepGrid, decodes: int, context: int, chunk: int = 0, before: int = 0, prompts: int = 1) -> float:
    pairs = prompts * (chunk * before + chunk * (chunk + 1) / 2)
    chunks = prompts if chunk else 0
    return float(grid.duration_s(decodes, decodes * context, prompts * chunk, pairs, chunks)[0])


def test_decodes(tmp_path: Path) -> None:
    grid = calibrated(tmp_path)
    for decodes, context in ((8, 512), (16, 1024), (8, 32), (16, 640)):
        tokens = 8 if decodes == 8 else 16
        layer_ms = linear_step_ms(tokens) + decode_ms(decodes, context)
        assert seconds(grid, decodes, context) == pytest.approx(32 * layer_ms / 1e3, rel=1e-9)


def test_tokens_count_as_a_multiple_of_eight(tmp_path: Path) -> None:
    grid = calibrated(tmp_path)
    layer_ms = OPERATIONS * linear_ms(8) + SAVE_MS * 4 + decode_ms(4, 512)
    assert seconds(grid, 4, 512) == pytest.approx(32 * layer_ms / 1e3, rel=1e-9)


def test_chunks_of_a_prompt(tmp_path: Path) -> None:
    grid = calibrated(tmp_path)
    for chunk, before in ((512, 0), (1024, 0)):
        layer_ms = linear_step_ms(chunk) + prefill_ms(chunk, before)
        assert seconds(grid, 0, 0, chunk, before) == pytest.approx(32 * layer_ms / 1e3, rel=0.002), (chunk, before)
    earlier, later = seconds(grid, 0, 0, 512, 0), seconds(grid, 0, 0, 512, 1024)
    assert later - earlier == pytest.approx(32 * (prefill_ms(512, 1024) - prefill_ms(512, 0)) / 1e3, rel=0.01)


def test_decodes_beside_a_prompt(tmp_path: Path) -> None:
    """Both attentions, and the linear operations once for all tokens; 64 and 192 are 256."""
    grid = calibrated(tmp_path)
    both = seconds(grid, 16, 512, 240)
    layer_ms = linear_step_ms(256) + decode_ms(16, 512)
    assert both - (seconds(grid, 0, 0, 240) - 32 * linear_step_ms(240) / 1e3) == pytest.approx(
        32 * layer_ms / 1e3, rel=1e-6
    )


def test_prompts_together_count_as_the_root_of_their_squares(tmp_path: Path) -> None:
    grid = calibrated(tmp_path)
    layer_ms = linear_step_ms(1024) + prefill_ms(4**0.5 * 256, 0)
    assert seconds(grid, 0, 0, 256, prompts=4) == pytest.approx(32 * layer_ms / 1e3, rel=0.003)


def test_shared_heads_cost_a_tenth_more_for_several_requests(tmp_path: Path) -> None:
    grid = calibrated(tmp_path, QWEN)
    for decodes, factor in ((1, 1.0), (16, 1.1)):
        tokens = max(decodes, 8)
        layer_ms = OPERATIONS * linear_ms(tokens) + SAVE_MS * decodes + factor * decode_ms(decodes, 512)
        assert seconds(grid, decodes, 512) == pytest.approx(28 * layer_ms / 1e3, rel=1e-9)


def test_the_step_of_a_tile_is_kept(tmp_path: Path) -> None:
    """Nine operations take 0.01 ms more from 520 tokens on, in 32 layers; a knot follows at 544."""
    grid = calibrated(tmp_path)
    rise = (seconds(grid, 0, 0, 544) - seconds(grid, 0, 0, 512)) * 1e3
    slope = 32 * (linear_step_ms(512) - linear_step_ms(480) + prefill_ms(544, 0) - prefill_ms(512, 0))
    assert rise - slope == pytest.approx(32 * OPERATIONS * 0.01, rel=0.05)


def test_runs_of_one_size_are_their_median_and_gaps_are_filled(tmp_path: Path) -> None:
    mlp, attention = write_profile(tmp_path, LLAMA)
    header, *rows = mlp.read_text().splitlines()
    mean = calibrate_vidur(mlp, attention, LLAMA, A100).hardware.grid
    slow = [",".join(["9.9"] * OPERATIONS + row.split(",")[OPERATIONS:]) for row in rows[:1]]
    unmeasured = [",".join([*row.split(",")[:2], "", *row.split(",")[3:]]) for row in rows[3:4]]
    mlp.write_text("\n".join([header, *rows[:3], rows[0], *slow, *unmeasured, *rows[4:]]))
    assert calibrate_vidur(mlp, attention, LLAMA, A100).hardware.grid.shared_s == pytest.approx(
        mean.shared_s, rel=1e-12
    )


def test_older_profiles_lack_columns_that_count_nothing(tmp_path: Path) -> None:
    mlp, attention = write_profile(tmp_path, LLAMA)
    for file, name in ((mlp, "add"), (mlp, "input_layernorm"), (attention, "attn_kv_cache_save")):
        file.write_text(file.read_text().replace(f"time_stats.{name}.median", f"time_stats.{name}.mean"))
    grid = calibrate_vidur(mlp, attention, LLAMA, A100).hardware.grid
    assert grid is not None
    layer_ms = (OPERATIONS - 2) * linear_ms(16) + decode_ms(16, 512)
    assert seconds(grid, 16, 512) == pytest.approx(32 * layer_ms / 1e3, rel=1e-9)


def test_tensor_parallel_gpus_add_up_twice_in_a_layer(tmp_path: Path) -> None:
    files = write_profile(tmp_path, LLAMA, tp=2)
    grid = calibrate_vidur(*files, LLAMA, A100, Serving(tp=2), write_all_reduce(tmp_path, LLAMA, 2)).hardware.grid
    assert grid is not None
    reduce_ms = 2 * (REDUCE_MS[0] + REDUCE_MS[1] * 16 + 0.02)
    layer_ms = linear_step_ms(16) + decode_ms(16, 512) + reduce_ms
    assert seconds(grid, 16, 512) == pytest.approx(32 * layer_ms / 1e3, rel=1e-9)


def test_the_machine(tmp_path: Path) -> None:
    """As far as the grid reaches, with the model's KV cache; the engine takes it, from a file as well."""
    queried = calibrate_vidur(*write_profile(tmp_path, LLAMA), LLAMA, A100, Serving(num_gpu_blocks=500))
    hardware = queried.hardware
    assert (hardware.name, hardware.num_gpu_blocks) == ("llama-2-7b on a100-80gb (vidur)", 500)
    assert (hardware.server.max_num_seqs, hardware.server.max_num_batched_tokens) == (16, 1024)
    assert hardware.server.max_model_len == 2048
    assert hardware.kv_law is not None
    assert hardware.kv_law.bytes_per_block == LLAMA.kv_law().bytes_per_block
    write_hardware(hardware, tmp_path / "hardware.json")
    lone = Workload(np.zeros(1), np.array([512]), np.array([2]))
    config = EngineConfig(async_scheduling=False)
    records = run(lone, read_hardware(tmp_path / "hardware.json"), Greedy(), config.on(hardware))
    expected = seconds(hardware.grid, 0, 0, 512)
    assert records.first_token_s[0] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="known up to 16 requests at once"):
        run(lone.take(np.zeros(17, int)), hardware, Greedy(), EngineConfig(max_num_seqs=20))


def cut(column: str) -> tuple[str, str, str]:
    return column, "elsewhere", f"no column {column} in the header"


BAD = {
    "a column of linear operations": ("mlp.csv", *cut("time_stats.mlp_act.median")),
    "tokens": ("mlp.csv", *cut("num_tokens")),
    "a column of attention": ("attention.csv", *cut("time_stats.attn_decode.median")),
    "what is prefill": ("attention.csv", *cut("is_prefill")),
    "block size": ("attention.csv", *cut("block_size")),
    "no number": (
        "mlp.csv",
        "0.03005",
        "fast",
        "mlp.csv:2: time_stats.input_layernorm.median = 'fast' must be a number",
    ),
    "negative": ("mlp.csv", "0.03005", "-1", "must be a number between 0 and"),
    "neither": ("attention.csv", "True", "yes", "attention.csv:2: is_prefill = 'yes' must be True or False"),
    "a field more": ("attention.csv", "True", "True,", "attention.csv:2: 13 fields where the header has 12"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path: Path, name: str) -> None:
    files = write_profile(tmp_path, LLAMA)
    file, old, new, words = BAD[name]
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=words):
        calibrate_vidur(*files, LLAMA, A100)


def test_seconds_in_place_of_milliseconds(tmp_path: Path) -> None:
    mlp, attention = write_profile(tmp_path, LLAMA)
    header, *rows = mlp.read_text().splitlines()
    cells = [row.split(",") for row in rows]
    rows = [",".join([*(str(float(ms) / 1e3) for ms in row[:OPERATIONS]), *row[OPERATIONS:]]) for row in cells]
    mlp.write_text("\n".join([header, *rows]))
    with pytest.raises(
        InputError, match=r"one token takes 0\.0\d+ ms, and a100-80gb reads the weights .* milliseconds"
    ):
        calibrate_vidur(mlp, attention, LLAMA, A100)


@pytest.mark.parametrize(
    ("serving", "shape", "words"),
    [
        (
            Serving(),
            QWEN,
            r"mlp.csv: nothing is measured with n_embd = 3584, .*; it has n_embd = 4096, .* name the model",
        ),
        (Serving(tp=2), LLAMA, "nothing is measured with .*num_tensor_parallel_workers = 2.*name the model, --tp"),
        (Serving(block_size=32), LLAMA, r"attention.csv: nothing is measured with .* block_size = 32; it has .* = 16"),
        (Serving(pp=2), LLAMA, "of one pipeline stage"),
    ],
)
def test_another_model_or_parallelism(tmp_path: Path, serving: Serving, shape: ModelShape, words: str) -> None:
    with pytest.raises(InputError, match=words):
        calibrate_vidur(*write_profile(tmp_path, LLAMA), shape, A100, serving)


def test_tensor_parallelism_and_its_file_go_together(tmp_path: Path) -> None:
    reduce = write_all_reduce(tmp_path, LLAMA, 2)
    with pytest.raises(InputError, match=r"give tp > 1 .* or neither; tp is 1"):
        calibrate_vidur(*write_profile(tmp_path, LLAMA), LLAMA, A100, all_reduce=reduce)
    files = write_profile(tmp_path, LLAMA, tp=2)
    with pytest.raises(InputError, match=r"give tp > 1 .* or neither; tp is 2"):
        calibrate_vidur(*files, LLAMA, A100, Serving(tp=2))
    with pytest.raises(InputError, match=r"all_reduce.csv: nothing is measured with num_workers = 4"):
        calibrate_vidur(
            *write_profile(tmp_path, LLAMA, tp=4), LLAMA, A100, Serving(tp=4), write_all_reduce(tmp_path, LLAMA, 1)
        )


def unpacked(shared_dir: Path, folder: Path, name: str) -> Path:
    packed = shared_dir / "vidur" / "profiles" / f"{name}.csv.gz"
    if not packed.is_file():
        pytest.skip("needs ../shared/vidur/profiles, which is not here")
    (folder / f"{name}.csv").write_bytes(gzip.decompress(packed.read_bytes()))
    return folder / f"{name}.csv"


def test_a_real_profile(shared_dir: Path, tmp_path: Path) -> None:
    """Qwen-2-7B on an A30: the grid is near the measured steps, and needs more than four terms."""
    files = [unpacked(shared_dir, tmp_path, f"qwen-2-7b_a30_{what}") for what in ("mlp", "attention")]
    queried: QueriedHardware = calibrate_vidur(*files, QWEN, A30)
    for kind in ("decode", "chunk", "prefill"):
        error = queried.interpolation_error[queried.points.kind == kind]
        assert len(error) > 50
        assert error.mean() < 0.01, kind
        assert error.max() < 0.08, kind
    assert queried.hardware.relative_error > 3 * queried.interpolation_error.mean()


def test_real_linear_operations(shared_dir: Path, tmp_path: Path) -> None:
    """Llama-2-7B on an A100: 33, 68, 133 and 258 ms at 512, 1,024, 2,048 and 4,096 tokens, in steps of tiles."""
    mlp = unpacked(shared_dir, tmp_path, "llama-2-7b_a100_mlp")
    _, attention = write_profile(tmp_path, LLAMA)
    grid = calibrate_vidur(mlp, attention, LLAMA, A100).hardware.grid
    assert grid is not None
    at = knots(len(grid.shared_s), TOKEN_KNOTS_PER_OCTAVE)
    shared_ms = np.interp([512, 1024, 2048, 4096], at, grid.shared_s) * 1e3
    assert shared_ms == pytest.approx([33.4, 67.9, 133, 258], rel=0.01)
