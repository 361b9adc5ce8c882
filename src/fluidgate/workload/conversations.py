"""Conversations: sessions of turns, in each of which the prompt is all that was said before and something new."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import FloatArray, IntArray
from fluidgate.bounds import MAX_SECONDS, check_number, check_whole
from fluidgate.workload.core import Workload

BLOCK_TOKENS = 512
"""Tokens per content id, as in Mooncake's traces; the last id of a turn is of a part."""

MAX_TURNS = 10_000


@dataclass(frozen=True)
class Conversation:
    """How a session goes on after its first prompt.

    Attributes:
        turns: requests in a session.
        think_time_s: mean of the exponential time from a reply to the next turn, seconds.
        growth_tokens: mean of the geometric number of new prompt tokens in a turn, at least 1.
    """

    turns: int
    think_time_s: float = 10.0
    growth_tokens: float = 100.0

    def __post_init__(self) -> None:
        check_whole("turns", self.turns, 1, MAX_TURNS)
        check_number("think_time_s", self.think_time_s, 0.0, MAX_SECONDS, "seconds")
        check_number("growth_tokens", self.growth_tokens, 1.0, 1e9, "tokens")

    def drawn(
        self, begin_s: FloatArray, first_prompts: IntArray, outputs: IntArray, rng: np.random.Generator
    ) -> tuple[Workload, IntArray]:
        """The requests in order of the earliest time of each, and which of `outputs` each has, shape (m · turns,).

        Args:
            begin_s: when the sessions begin, shape (m,), seconds, rising.
            first_prompts: prompt tokens of first turns, shape (m,).
            outputs: output tokens, shape (m · turns,), those of a session one after the other.
            rng: draws think times and growth.
        """
        sessions, turns = len(begin_s), self.turns
        replies = outputs.reshape(sessions, turns)
        growth, thought_s = np.zeros((sessions, turns), np.int64), np.zeros((sessions, turns))
        for session in range(sessions):  # one session after the other, so that longer draws extend shorter ones
            growth[session, 1:] = rng.geometric(1.0 / self.growth_tokens, turns - 1)
            thought_s[session, 1:] = self.think_time_s * rng.standard_exponential(turns - 1)
        growth[:, 0] = first_prompts
        prompts = np.cumsum(growth, axis=1) + np.cumsum(replies, axis=1) - replies
        earliest_s = begin_s[:, None] + np.cumsum(thought_s, axis=1)
        ids, counts = _content_ids(prompts + replies)
        after = np.arange(sessions * turns).reshape(sessions, turns) - 1
        after[:, 0] = -1
        unsorted = Workload(
            np.zeros(sessions * turns),
            prompts.ravel(),
            outputs,
            prefix_ids=ids,
            prefix_offsets=np.concatenate(([0], np.cumsum(counts))),
            prefix_block_tokens=BLOCK_TOKENS,
            after=after.ravel(),
            delay_s=thought_s.ravel(),
            ids_cover_replies=True,
        )
        rows = np.argsort(earliest_s.ravel(), kind="stable")
        return unsorted.reordered(rows, earliest_s.ravel()[rows]), rows


def _content_ids(said: IntArray) -> tuple[IntArray, IntArray]:
    """Ids of the content of every turn, end to end, and how many each has; `said`: tokens, shape (sessions, turns)."""
    counts = -(-said // BLOCK_TOKENS)
    base = np.concatenate(([0], np.cumsum(counts[:, -1])[:-1]))
    flat = counts.ravel()
    within = np.arange(flat.sum()) - np.repeat(np.cumsum(flat) - flat, flat)
    return np.repeat(np.repeat(base, said.shape[1]), flat) + within, flat
