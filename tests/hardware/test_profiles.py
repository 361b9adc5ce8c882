"""Built-in profiles: the paper's check values, and every stated error measured again on its grid."""

from pathlib import Path

import numpy as np
import pytest

from fluidgate.calibration import StepPoints
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, Profile, find_profile, get_hardware, load_profile, profile_names
from fluidgate.hardware.estimate import SEQUENCE_S
from fluidgate.hardware.gpus import canonical_gpu_name
from fluidgate.hardware.model_config import canonical_model_name
from latency_grids import LatencyGrid, read_grids

LLAMA_2_GRID = Path(__file__).resolve().parents[2] / "tools" / "llama_2_7b_a100_grid.json"
LMSYS_A = 28_172


def equilibrium_kv_tokens(hardware: Hardware, rate: float) -> float:
    """M* = d0·λa / (1 − d1·λa), the paper's fluid equilibrium on LMSYS lengths."""
    d0, d1 = hardware.step_time.c0, hardware.step_time.c_kv
    return d0 * rate * LMSYS_A / (1 - d1 * rate * LMSYS_A)


@pytest.mark.parametrize(("rate", "kv_tokens"), [(50, 34_377), (60, 55_758), (70, 100_327), (80, 250_509)])
def test_paper_variant_meets_the_published_equilibria(rate: float, kv_tokens: float) -> None:
    paper = load_profile("llama-2-7b", "a100-80gb", "paper")
    assert equilibrium_kv_tokens(paper, rate) == pytest.approx(kv_tokens, rel=1e-3)


def test_paper_variant_saturates_at_the_published_rate() -> None:
    paper = load_profile("llama-2-7b", "a100-80gb", "paper")
    assert paper.kv_capacity_tokens == pytest.approx(137_000, rel=1e-3)
    assert equilibrium_kv_tokens(paper, 74.0) < paper.kv_capacity_tokens < equilibrium_kv_tokens(paper, 74.2)
    assert (paper.step_time.c_tok, paper.step_time.c_attn) == (0, 0)
    assert paper.step_time.c0 == pytest.approx(10.6e-3, rel=1e-3)
    assert paper.step_time.c_kv == pytest.approx(0.40e-6, rel=0.01)
    assert paper.step_time.c_kv / paper.step_time.c0 == pytest.approx(3.784e-5, rel=1e-3)


def vidur_s(decodes: int, context: int, chunk: int = 0, before: int = 0, prompts: int = 1) -> float:
    """Seconds of a step under the variant `vidur`."""
    grid = load_profile("llama-2-7b", "a100", "vidur").grid
    assert grid is not None
    pairs = prompts * (chunk * before + chunk * (chunk + 1) / 2)
    return float(grid.tables_s(decodes, decodes * context, prompts * chunk, pairs)[0])


@pytest.mark.parametrize(("tokens", "ms"), [(512, 33.4), (1024, 67.9), (2048, 133.5), (4096, 259.9)])
def test_vidur_variant_has_the_measured_linear_operations(tokens: int, ms: float) -> None:
    """A prompt takes them, and the attention that was fitted: .02 + .037 + 1.777e-7 c² ms in each of 32 layers."""
    attention_ms = 32 * (0.057 + 1.777e-7 * tokens**2)
    assert vidur_s(0, 0, tokens) * 1e3 == pytest.approx(ms + attention_ms, rel=0.02)


def test_vidur_variant_steps_at_tiles() -> None:
    """The linear operations take 12.2 ms up to 128 tokens and 17.6 from 136 on, 17.8 up to 256 and 22.5 from 272 on."""
    for below, above, rise_ms in ((128, 136, 5.3), (256, 272, 4.7)):
        attention_ms = 32 * (0.037 * (above - below) / 400 + 1.777e-7 * (above**2 - below**2))
        rise = 1e3 * (vidur_s(0, 0, above) - vidur_s(0, 0, below))
        assert rise - attention_ms == pytest.approx(rise_ms, abs=0.7)


@pytest.mark.parametrize(("decodes", "context", "layer_ms"), [(1, 640, 0.016), (16, 32, 0.028), (64, 640, 0.393)])
def test_vidur_variant_has_the_measured_decode_attention(decodes: int, context: int, layer_ms: float) -> None:
    linear_ms = {1: 9.1, 16: 9.2, 64: 9.7}[decodes]
    assert vidur_s(decodes, context) * 1e3 == pytest.approx(linear_ms + 32 * layer_ms, rel=0.02)


def test_vidur_variant_takes_prompts_together_as_the_root_of_their_squares() -> None:
    together, apart = vidur_s(0, 0, 256, prompts=4), vidur_s(0, 0, 1024)
    alone_ms, joint_ms = 0.057 + 1.777e-7 * 1024**2, 0.057 + 1.777e-7 * 4 * 256**2
    assert (together - apart) * 1e3 == pytest.approx(32 * (joint_ms - alone_ms), rel=0.03)


def test_vidur_variant_is_for_16_bit_kv() -> None:
    with pytest.raises(InputError, match="a grid of steps with KV in 16 bits; leave kv_cache_dtype"):
        get_hardware("llama-2-7b", "a100", variant="vidur", kv_cache_dtype="fp8")


def test_every_profile_loads_by_its_own_name() -> None:
    assert len(set(profile_names())) == len(profile_names()) == 17
    for name in profile_names():
        model, gpu, variant = name.split("/")
        hardware = load_profile(model, gpu, variant)
        assert hardware.source
        assert hardware.kv_capacity_tokens > 10_000


def test_all_but_those_of_the_paper_have_the_estimates_cost_per_sequence() -> None:
    for name in profile_names():
        model, gpu, variant = name.split("/")
        expected = 0.0 if model == "llama-2-7b" else SEQUENCE_S
        hardware = load_profile(model, gpu, variant)
        assert hardware.step_time.c_seq == expected, name
        assert ("c_seq assumed" in hardware.source) == (expected > 0)


def test_usual_spellings_and_the_default_variant() -> None:
    default = load_profile("llama-2-7b", "a100-80gb")
    assert load_profile("meta-llama/Llama-2-7b-hf", "A100_SXM", "four-term") == default
    assert default.step_time.c_tok > 0


def test_profiles_that_are_not_there() -> None:
    with pytest.raises(InputError, match="has no profile variant 'four-term'; it has tp4: name one of these"):
        load_profile("llama-3.1-70b", "a100")
    with pytest.raises(InputError, match="there is no profile of qwen3-8b on l4; use get_hardware"):
        load_profile("qwen3-8b", "l4")
    with pytest.raises(InputError, match="unknown model 'gpt-9'"):
        load_profile("gpt-9", "l4")
    with pytest.raises(InputError, match="unknown GPU 'tpu'"):
        load_profile("qwen3-8b", "tpu")


def test_a_mixture_of_experts_is_refused() -> None:
    with pytest.raises(InputError, match="qwen3-30b-a3b is a mixture of experts: its step time is not affine"):
        load_profile("Qwen/Qwen3-30B-A3B", "h100")


def profile_of(grid: LatencyGrid) -> Profile | None:
    variants = [grid.backend] if grid.backend != "vllm" else []
    variants += [f"tp{grid.tp}"] if grid.tp > 1 else []
    variant = "-".join(variants) or "four-term"
    return find_profile(canonical_model_name(grid.model), canonical_gpu_name(grid.system), variant)


def check_stated_errors(profile: Profile, points: StepPoints) -> None:
    times = profile.hardware.step_time
    fitted_s = (
        times.c0 + times.c_tok * points.tokens + times.c_kv * points.kv_tokens + times.c_attn * points.attention_pairs
    )
    error = np.abs(fitted_s - points.duration_s) / points.duration_s
    assert profile.hardware.relative_error == pytest.approx(error.mean(), abs=1e-4)
    assert error.mean() < 0.10
    for kind in ("decode", "prefill", "mixed"):
        assert profile.error_by_kind[kind] == pytest.approx(error[points.kind == kind].mean(), abs=1e-4)


def test_stated_error_of_llama_2() -> None:
    (grid,) = read_grids(LLAMA_2_GRID)
    profile = profile_of(grid)
    assert profile is not None
    assert grid.kv_capacity_tokens is not None
    assert profile.hardware.kv_capacity_tokens == pytest.approx(137_000, rel=1e-3)  # the paper's, not the grid's
    check_stated_errors(profile, grid.serving_points(grid.kv_capacity_tokens))


def test_stated_errors_of_all_dense_grids(shared_dir: Path) -> None:
    grids = read_grids(shared_dir / "hardware" / "latency_grids.json")
    checked = []
    for grid in grids:
        profile = profile_of(grid)
        if canonical_model_name(grid.model) == "qwen3-30b-a3b":
            assert profile is None
            continue
        assert profile is not None, grid.model
        # Where an engine's grid states no capacity, the profile takes that of vLLM on the same pair.
        capacity = grid.kv_capacity_tokens or 432_992
        assert profile.hardware.num_gpu_blocks == capacity // 16
        check_stated_errors(profile, grid.serving_points(capacity))
        checked.append(profile.name)
    assert len(checked) == 14
