"""A step time from data sheets alone, for pairs without measurements: a roofline."""

from __future__ import annotations

from fluidgate.errors import InputError
from fluidgate.hardware.core import StepTime
from fluidgate.hardware.gpus import Gpu
from fluidgate.hardware.model_config import ModelShape

# Fractions of the data sheet's bandwidth and throughput that the fitted profiles reach, and the time a layer
# takes whatever its size (kernel launches, norms). `python tools/fit_profiles.py` prints estimate
# ÷ fit for each.
WEIGHT_READ_EFFICIENCY = 0.9
KV_READ_EFFICIENCY = 0.95
MATMUL_EFFICIENCY = 0.8
MATMUL_8_BIT_EFFICIENCY = 0.6
ATTENTION_EFFICIENCY = 0.55
LAYER_OVERHEAD_S = 30e-6

# The time that a layer's two all-reduces take whatever their size: `python tools/tensor_parallel_errors.py` prints the
# errors with it, and with the share of a data sheet's link that `gpus.LINK_EFFICIENCY` says.
ALL_REDUCES_OVERHEAD_S = 25e-6

# What a server's host does per scheduled request and step: sampling, detokenising, bookkeeping. A round number for a
# few calls in Python. The runs that aiconfigurator-core 0.12 ships, of Llama-3.1-70B and gpt-oss-120b under vLLM on
# H100 and H200 (TPOT at 4 to 64 requests in flight), do not determine it: what grows with their number beyond the
# operators' times is 2 to 52 µs per request in half of the settings with 8,192 tokens of output, and negative in
# some.
SEQUENCE_S = 10e-6


def estimate_step_time(model: ModelShape, gpu: Gpu, tp: int = 1, kv_cache_dtype: str = "auto") -> StepTime:
    """The roofline estimate of a dense model's step time on `tp` GPUs.

    c0 reads every weight but the embedding once, as it is stored, plus a fixed time per layer; c_tok is 2
    operations per layer weight, at the rate of the type that the checkpoint is computed in; c_kv reads one token's KV
    in the layers that keep every token; c_attn is 4·layers·heads·head_dim operations per (query, key) pair, also where
    windows need fewer; c_seq is 10 µs for any pair, the host's, and reads the windows, as if they were full.
    Several GPUs add their activations up twice in a layer, which takes 2(tp − 1)/tp of their bytes over the link,
    and a fixed time.

    Estimate ÷ fit over the 15 fitted profiles, most of them in 0.8–1.1: c0 0.74–1.14, c_tok 0.52–1.15, c_kv
    0.83–1.26, c_attn 0.50–2.01. Mean error on the grids' own steps 5–14%, 20% for a 0.6B model; the
    efficiencies were chosen on these grids. Not chosen on it: a measured vLLM run (Llama-3.1-8B, RTX 4090),
    whose decode steps the estimate meets at a median ratio of 1.06.

    Raises:
        InputError: a mixture of experts, `tp` that does not divide the heads, or several GPUs without a known link.
    """
    bytes_per_s = gpu.hbm_gb_per_s * 1e9
    flops = gpu.bf16_tflops * 1e12 * tp
    in_8_bits = model.scheme.computes_in_8_bits and gpu.fp8_tflops is not None
    efficiency = MATMUL_8_BIT_EFFICIENCY if in_8_bits else MATMUL_EFFICIENCY
    matmul_flops = gpu.tflops(in_8_bits) * 1e12 * tp * efficiency
    head = model.vocab_size * model.hidden_size
    weight_bytes = (model.layer_bytes + head * model.dtype_bytes) / tp
    layer_s, token_s = _communication_s(model, gpu, tp)
    per_token_bytes, window_bytes = model.kv_read_bytes(tp, kv_cache_dtype)
    kv_bytes_per_s = bytes_per_s * KV_READ_EFFICIENCY
    return StepTime(
        c0=weight_bytes / (bytes_per_s * WEIGHT_READ_EFFICIENCY) + model.layers * (LAYER_OVERHEAD_S + layer_s),
        c_tok=2 * model.layer_parameters / matmul_flops + token_s,
        c_kv=per_token_bytes / kv_bytes_per_s,
        c_attn=4 * model.layers * model.heads * model.head_dim / (flops * ATTENTION_EFFICIENCY),
        c_seq=SEQUENCE_S + window_bytes / kv_bytes_per_s,
    )


def _communication_s(model: ModelShape, gpu: Gpu, tp: int) -> tuple[float, float]:
    """Seconds of all-reduces: per layer whatever the tokens, and per token in all layers."""
    if tp == 1:
        return 0.0, 0.0
    if gpu.link_gb_per_s is None:
        raise InputError(f"the data sheet of {gpu.name} does not give its link, which tp = {tp} needs: add --link-gbps")
    activation_bytes = 2 * model.layers * model.hidden_size * model.dtype_bytes
    share = 2 * (tp - 1) / tp
    return ALL_REDUCES_OVERHEAD_S, activation_bytes * share / (gpu.link_gb_per_s * 1e9)
