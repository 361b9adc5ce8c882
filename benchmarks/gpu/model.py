"""A Llama-shaped decoder in plain PyTorch, with random weights; parameter names are those of Hugging Face's Llama."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluidgate.hardware import ModelShape, find_model

TINY = ModelShape("tiny", 2, 64, 128, heads=4, kv_heads=2, head_dim=16, vocab_size=512)
ROPE_BASE, NORM_EPS = 10_000.0, 1e-5

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries (T, heads, head_dim), keys and values (T, kv_heads, head_dim)) -> (T, heads, head_dim)."""


def model_shape(name: str) -> ModelShape:
    """`tiny`, or one of the built-in shapes by name."""
    return TINY if name == TINY.name else find_model(name)


class Layer(nn.Module):
    """Attention and a gated MLP, each behind a norm and beside a residual."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        hidden, width = shape.hidden_size, shape.head_dim
        self.head_dim = width
        self.input_layernorm = nn.RMSNorm(hidden, NORM_EPS)
        self.post_attention_layernorm = nn.RMSNorm(hidden, NORM_EPS)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(hidden, shape.heads * width, bias=False),
                "k_proj": nn.Linear(hidden, shape.kv_heads * width, bias=False),
                "v_proj": nn.Linear(hidden, shape.kv_heads * width, bias=False),
                "o_proj": nn.Linear(shape.heads * width, hidden, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(hidden, shape.intermediate_size, bias=False),
                "up_proj": nn.Linear(hidden, shape.intermediate_size, bias=False),
                "down_proj": nn.Linear(shape.intermediate_size, hidden, bias=False),
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        project, tokens = self.self_attn, x.shape[0]
        normed = self.input_layernorm(x)
        q, k, v = (project[name](normed).view(tokens, -1, self.head_dim) for name in ("q_proj", "k_proj", "v_proj"))
        mixed = attend(layer, rotated(q, cos, sin), rotated(k, cos, sin), v)
        x = x + project["o_proj"](mixed.reshape(tokens, -1))
        normed, mlp = self.post_attention_layernorm(x), self.mlp
        return x + mlp["down_proj"](functional.silu(mlp["gate_proj"](normed)) * mlp["up_proj"](normed))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of (T, heads, head_dim), Llama's halves convention."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Llama(nn.Module):
    """The decoder over flattened tokens; what a token attends to is the caller's `attend`."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden_size, NORM_EPS)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend, logits_of: Tensor) -> Tensor:
        """Logits (len(logits_of), vocabulary) of the tokens at those indices; tokens and positions have shape (T,)."""
        x = self.embed_tokens(tokens)
        cos, sin = self._angles(positions, x.dtype)
        for number, layer in enumerate(self.layers):
            x = layer(x, cos, sin, number, attend)
        return self.lm_head(self.norm(x[logits_of]))  # type: ignore[no-any-return]

    def _angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        width = self.shape.head_dim
        powers = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
        angles = positions[:, None].float() * ROPE_BASE**-powers
        angles = torch.cat((angles, angles), dim=-1)[:, None, :]
        return angles.cos().to(dtype), angles.sin().to(dtype)


def random_model(shape: ModelShape, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Llama:
    """A decoder of this shape on the device; the same seed gives the same weights there."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return Llama(shape).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
