"""`RunRecords`: everything one run produced, per request and in total."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import BoolArray, FloatArray, IntArray
from fluidgate.engine.config import EngineConfig
from fluidgate.hardware import Hardware
from fluidgate.workload import Workload


@dataclass(frozen=True, eq=False)
class StepRecords:
    """What happened in each iteration; all arrays have one value per iteration unless said otherwise.

    Attributes:
        start_s, end_s: when it ran, seconds.
        scheduled, tokens: requests in the batch and tokens computed.
        running, waiting: residents and queued requests after the batch was formed.
        free_blocks: free KV blocks after the batch was formed.
        preempted: requests that lost their KV.
        batch: row and tokens of every scheduled request, all iterations end to end, shape (Σ scheduled, 2);
            empty unless decisions were recorded.
        victims: rows of preempted requests in order, shape (Σ preempted,); empty unless decisions were recorded.
    """

    start_s: FloatArray
    end_s: FloatArray
    scheduled: IntArray
    tokens: IntArray
    running: IntArray
    waiting: IntArray
    free_blocks: IntArray
    preempted: IntArray
    batch: IntArray
    victims: IntArray

    def __len__(self) -> int:
        return len(self.start_s)


@dataclass(frozen=True, eq=False)
class RunRecords:
    """One run of a policy on a workload. Per-request arrays have shape (n,), in order of arrival.

    Attributes:
        workload, hardware, config, policy: what ran (`policy` is its name).
        arrival_s: when the request was sent: as the workload says in an open loop, decided by what left before it in a
            closed loop and in sessions, where it need not rise; NaN if it never was.
        first_scheduled_s: when the request first entered the batch; NaN if never.
        first_token_s, last_token_s: when its first and its latest token came; NaN if none did.
        finished: whether all its tokens came.
        generated_tokens: tokens it has at the end.
        longest_gap_s: longest silence between two of its tokens, seconds; 0 with fewer than two tokens.
        held_s: time in which the policy, and nothing else, kept it out, seconds.
        preemptions: how often it lost its KV.
        recomputed_tokens: tokens computed again after that.
        cached_tokens: prompt tokens found in the prefix cache when it first entered, or that arrived computed.
        left_s: when the engine dropped it, because its client had given up or the policy had; NaN if it did not. A
            client left at its deadline, which may lie within the iteration that ended then.
        shed: whether it was the policy that gave it up.
        spent_s, spent_tokens: its share of the busy time, seconds (`engine.patience.book_shares`), and the tokens
            computed for it; None where nobody gives up.
        end_s, busy_s: when the run ended, and time spent in iterations, seconds.
        iterations, computed_tokens: totals of the run.
        empty_iterations: iterations that only evicted: nothing was scheduled, and no time passed.
        peak_blocks, mean_blocks: KV blocks in use, at most and on average over busy time.
        nearly_full_s: busy time with more than 90% of the blocks in use, seconds.
        gap_sum_s, gap_counts, gap_edges_s: all gaps between tokens: their sum, and a histogram whose bins are
            0.1% wide (`gap_edges_s` has one more value than `gap_counts`).
        stalled: the policy held requests, or let them evict each other, forever, and declares that it may
            (`Policy.may_idle`); requests are left over.
        steps: per-iteration records, None unless asked for.
    """

    workload: Workload
    hardware: Hardware
    config: EngineConfig
    policy: str
    arrival_s: FloatArray
    first_scheduled_s: FloatArray
    first_token_s: FloatArray
    last_token_s: FloatArray
    finished: BoolArray
    generated_tokens: IntArray
    longest_gap_s: FloatArray
    held_s: FloatArray
    preemptions: IntArray
    recomputed_tokens: IntArray
    cached_tokens: IntArray
    left_s: FloatArray
    shed: BoolArray
    spent_s: FloatArray | None
    spent_tokens: IntArray | None
    end_s: float
    busy_s: float
    iterations: int
    empty_iterations: int
    computed_tokens: int
    peak_blocks: int
    mean_blocks: float
    nearly_full_s: float
    gap_sum_s: float
    gap_counts: IntArray
    gap_edges_s: FloatArray
    stalled: bool
    steps: StepRecords | None

    def __len__(self) -> int:
        return len(self.finished)

    @property
    def dropped(self) -> BoolArray:
        """Whether its client gave up, or the policy gave it up, shape (n,)."""
        return ~np.isnan(self.left_s)

    @property
    def aborted(self) -> BoolArray:
        """Whether its client gave up, shape (n,)."""
        return self.dropped & ~self.shed

    @property
    def no_first_token(self) -> BoolArray:
        """Whether its client gave up because the first token took too long, shape (n,)."""
        load = self.workload
        if not load.gives_up:
            return self.aborted
        return self.aborted & np.isnan(self.first_token_s) & (load.ttft_timeout_s < load.timeout_s)

    @property
    def gave_up_s(self) -> FloatArray:
        """When its client left, shape (n,), seconds; NaN if it did not."""
        load = self.workload
        if not load.gives_up:
            return np.full(len(load), np.nan)
        timeout_s = np.where(self.no_first_token, load.ttft_timeout_s, load.timeout_s)
        in_engine_s = np.maximum(timeout_s - self.hardware.overhead_s, 0.0)
        return np.where(self.aborted, self.arrival_s + in_engine_s, np.nan)

    @property
    def total_blocks(self) -> int:
        """KV blocks that hold tokens (all but the null block)."""
        return self.hardware.num_gpu_blocks - 1

    @property
    def replicas(self) -> int:
        """Engines that ran."""
        return 1


@dataclass(frozen=True, eq=False)
class FleetRecords(RunRecords):
    """A run of several replicas. Per-request arrays are of all requests, in order of arrival.

    `hardware`, `config` and `policy` are those of each replica. Totals are sums over the replicas, but `peak_blocks` is
    of the fullest, `mean_blocks` an average over all busy time, and `end_s` when the last of them ended.

    Attributes:
        router: how requests were routed.
        replica: which replica served each request, shape (n,), from 0; −1 for one that was never sent.
        runs: the records of each replica alone, None where it was sent nothing.
    """

    router: str
    replica: IntArray
    runs: tuple[RunRecords | None, ...]

    @property
    def replicas(self) -> int:
        """Engines that ran."""
        return len(self.runs)

    @property
    def tokens_by_replica(self) -> IntArray:
        """Prompt and output tokens of the requests that each replica was sent, shape (replicas,)."""
        tokens = self.workload.prompt_tokens + self.workload.output_tokens
        sent = self.replica >= 0
        return np.bincount(self.replica[sent], tokens[sent], minlength=self.replicas).astype(np.int64)

    @property
    def imbalance(self) -> float:
        """Tokens of the replica that was sent most ÷ the mean over the replicas; 1: all got the same."""
        return float(self.tokens_by_replica.max() / self.tokens_by_replica.mean())
