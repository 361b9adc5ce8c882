"""How long a prompt is, from what routers see of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fluidgate.adapters.prompts import PromptSizes, measure

TEXT = "x" * 400


@pytest.mark.parametrize(
    ("request_", "characters", "tokens"),
    [
        (TEXT, 400, 0),
        ([1, 2, 3], 0, 3),
        ([[1, 2], [3]], 0, 3),
        ([TEXT, TEXT], 800, 0),
        ({"model": "m" * 99, "prompt": TEXT}, 400, 0),
        ({"prompt": [5, 6]}, 0, 2),
        ({"prompt_token_ids": [5, 6]}, 0, 2),
        ({"messages": [{"role": "user", "content": TEXT}, {"role": "assistant", "content": None}]}, 400, 0),
        (
            {"messages": [{"content": [{"type": "text", "text": TEXT}, {"type": "image", "url": "u"}]}]},
            400,
            0,
        ),
        ({"input": TEXT}, 400, 0),
        (SimpleNamespace(messages=[SimpleNamespace(content=TEXT)], n=3), 400, 0),
        (SimpleNamespace(prompt=TEXT), 400, 0),
        (None, 0, 0),
        ({"stream": True}, 0, 0),
        ([], 0, 0),
    ],
)
def test_text_is_measured_and_tokens_are_counted(request_: object, characters: int, tokens: int) -> None:
    assert measure(request_) == (characters, tokens)


def test_four_characters_are_a_token_until_servers_say_otherwise() -> None:
    sizes = PromptSizes()
    assert sizes.tokens(TEXT) == 100
    assert sizes.tokens("") == 1
    for _ in range(2000):
        sizes.learn(TEXT, 200)
    assert sizes.tokens(TEXT) == pytest.approx(200, abs=2)
    assert sizes.tokens({"prompt": [1] * 7}) == 7
    sizes.learn([1, 2, 3], 3)  # nothing to learn from
    assert sizes.tokens(TEXT) == pytest.approx(200, abs=2)
