"""Sessions: who follows whom under every change of a workload, what is generated, and what files say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import run
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.workload import (
    PRESETS,
    BenchArrivals,
    Conversation,
    Workload,
    generate,
    read_trace,
    resample,
    write_mooncake,
)
from fluidgate.workload._turns import first_turn_of

# Sessions 0 → 2 → 4 and 1 → 3, and 5 alone.
THREE = Workload(
    arrival_s=np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
    prompt_tokens=np.array([10, 11, 12, 13, 14, 15]),
    output_tokens=np.ones(6, int),
    after=np.array([-1, -1, 0, 1, 2, -1]),
    delay_s=np.array([0.0, 0.0, 2.0, 1.0, 0.5, 0.0]),
)


def followed(workload: Workload) -> dict[int, tuple[int | None, float]]:
    """By prompt length: the prompt length of the turn before, and the delay."""
    prompts = workload.prompt_tokens.tolist()
    if not workload.has_sessions:
        return dict.fromkeys(prompts, (None, 0.0))
    rows = zip(prompts, workload.after.tolist(), workload.delay_s.tolist(), strict=True)
    return {prompt: (prompts[after] if after >= 0 else None, delay_s) for prompt, after, delay_s in rows}


def test_rate_is_that_of_sessions_times_their_requests() -> None:
    assert THREE.rate == pytest.approx(2 * 2 / 5)  # 3 sessions in 5 s: 2 gaps; 2 requests in each
    assert THREE.scaled(3.0).rate == pytest.approx(3 * THREE.rate)


def test_scaling_keeps_the_times_within_sessions() -> None:
    fast = THREE.scaled(2.0)
    assert fast.arrival_s.tolist() == [0, 0.5, 2, 2.5, 2.5, 4]
    assert fast.prompt_tokens.tolist() == [10, 11, 12, 13, 15, 14]
    assert followed(fast) == followed(THREE)


def test_a_part_begins_sessions_where_the_turn_before_is_left_out() -> None:
    part = THREE.between(1.0, 4.5)  # 1, 2, 3, 4
    assert followed(part) == {11: (None, 0.0), 12: (None, 0.0), 13: (11, 1.0), 14: (12, 0.5)}
    assert not THREE.take([0, 1]).has_sessions


def test_copies_follow_copies() -> None:
    twice = THREE.reordered(np.array([0, 0, 2, 2, 4]), np.arange(5.0))
    assert twice.after.tolist() == [-1, -1, 0, 1, 2]
    backwards = THREE.reordered(np.array([2, 0]), np.arange(2.0))
    assert not backwards.has_sessions


def test_a_refused_turn_is_answered_at_once() -> None:
    """Turn 2 (arrival 2, delay 2) is too long: 4 is due at max(4, 2 + 0.5, reply of 0 + 2 + 0.5)."""
    long = replace(THREE, prompt_tokens=np.array([10, 11, 99, 13, 14, 15]))
    taken = long.within(50)
    assert followed(taken) == {10: (None, 0.0), 11: (None, 0.0), 13: (11, 1.0), 14: (10, 2.5), 15: (None, 0.0)}
    assert taken.refused is not None
    assert not taken.refused.is_closed
    first = replace(THREE, prompt_tokens=np.array([99, 11, 12, 13, 14, 15])).within(50)
    assert followed(first)[12] == (None, 0.0)
    assert first.arrival_s[first.prompt_tokens == 12].tolist() == [2.0]  # at 0 + 2 s, and no earlier than its own time


def test_a_session_goes_on_past_a_refused_turn() -> None:
    machine = Hardware("a second a step", StepTime(c0=1.0), num_gpu_blocks=101, block_size=4)
    load = Workload(
        np.zeros(3), np.array([1, 500, 2]), np.ones(3, int), after=np.array([-1, 0, 1]), delay_s=np.array([0.0, 3, 4])
    )
    records = run(load.within(100), machine, Greedy())
    assert records.arrival_s.tolist() == [0, 8]  # reply at 1, refused at 4, the next one 4 s later


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_change_makes_a_turn_follow_another_than_before(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    after = np.array([data.draw(st.integers(-1, i - 1)) for i in range(n)])
    load = Workload(
        np.sort(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))).astype(float),
        np.arange(1, n + 1),
        np.ones(n, int),
        after=after,
        delay_s=np.where(after < 0, 0.0, np.arange(n) + 1.0),
    )
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    changed = load.reordered(rows, np.arange(len(rows), dtype=float))
    for prompt, (before, delay_s) in followed(changed).items():
        assert before in (None, followed(load)[prompt][0])
        assert before is None or delay_s == followed(load)[prompt][1]
    if len(set(rows.tolist())) == len(rows):  # no copies: a turn follows wherever its turn before is ahead of it
        place = {row: i for i, row in enumerate(rows.tolist())}
        for row, i in place.items():
            ahead = load.has_sessions and after[row] >= 0 and place.get(int(after[row]), n) < i
            assert (changed.has_sessions and changed.after[i] >= 0) == ahead


def test_the_root_of_a_session() -> None:
    assert first_turn_of(THREE.after).tolist() == [0, 1, 0, 1, 0, 5]


def test_repeats_are_of_whole_sessions() -> None:
    spec = replace(PRESETS["lmsys"], conversation=Conversation(4, 5.0, 30.0))
    load = generate(spec, n=400, rate=2.0)
    for seed in range(3):
        again = resample(load, seed)
        assert (again.after < 0).sum() == 100
        assert len(again) == 400
        root = first_turn_of(again.after)
        assert (np.unique(root, return_counts=True)[1] == 4).all()
        assert again.duration_s == pytest.approx(load.duration_s, rel=0.3)
        later = again.after >= 0
        assert (again.prompt_tokens[later] > again.prompt_tokens[again.after[later]]).all()


def conversation(turns: int = 3, n: int = 3000, seed: int = 0) -> Workload:
    return generate(replace(PRESETS["lmsys"], conversation=Conversation(turns, 8.0, 40.0)), n=n, rate=6.0, seed=seed)


def test_a_conversation_grows_by_what_was_said() -> None:
    load = conversation()
    assert len(load) == 3000
    assert load.rate == pytest.approx(6.0, rel=0.1)
    later = np.flatnonzero(load.after >= 0)
    before = load.after[later]
    grown = load.prompt_tokens[later] - load.prompt_tokens[before] - load.output_tokens[before]
    assert grown.min() >= 1
    assert grown.mean() == pytest.approx(40.0, rel=0.1)
    assert load.delay_s[later].mean() == pytest.approx(8.0, rel=0.1)
    assert load.delay_s[later].std() == pytest.approx(8.0, rel=0.15)
    assert load.arrival_s[later] == pytest.approx(load.arrival_s[before] + load.delay_s[later])


def test_a_turn_shares_all_content_with_the_turn_before_and_none_with_other_sessions() -> None:
    load = conversation()
    root = first_turn_of(load.after)
    chains = np.split(load.prefix_ids, load.prefix_offsets[1:-1])
    owner: dict[int, int] = {}
    for row, chain in enumerate(chains):
        said = int(load.prompt_tokens[row] + load.output_tokens[row])
        assert len(chain) == -(-said // load.prefix_block_tokens)
        assert {owner.setdefault(int(i), int(root[row])) for i in chain} == {int(root[row])}
        if load.after[row] >= 0:
            earlier = chains[load.after[row]]
            assert chain[: len(earlier)].tolist() == earlier.tolist()


def test_the_same_seed_gives_the_same_bits_and_other_seeds_others() -> None:
    assert conversation().digest == conversation().digest
    assert conversation(seed=1).digest != conversation().digest
    assert conversation(turns=1).rate == pytest.approx(6.0, rel=0.1)
    assert not conversation(turns=1).has_sessions


def test_every_turn_finds_the_turn_before_it_in_a_large_cache() -> None:
    """All blocks of 16 whose KV the turn before wrote: its tokens but the last, whose KV is never written."""
    load = conversation(n=300)
    machine = Hardware("large", StepTime(c0=0.01), num_gpu_blocks=100_001, block_size=16)
    records = run(load, machine, Greedy())
    later = load.after >= 0
    before = load.after[later]
    written = load.prompt_tokens[before] + load.output_tokens[before] - 1
    assert (records.cached_tokens[later] == written // 16 * 16).all()
    assert (records.cached_tokens[~later] == 0).all()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Conversation(0), "turns = 0"),
        (lambda: Conversation(2, -1.0), "think_time_s = -1"),
        (lambda: Conversation(2, 1.0, 0.5), "growth_tokens = 0.5"),
        (lambda: BenchArrivals(1.0, 0.0), "burstiness = 0"),
    ],
)
def test_what_makes_no_sense_is_refused(made, words: str) -> None:
    with pytest.raises(InputError, match=words):
        made()


def test_gaps_have_the_shape_that_was_asked_for() -> None:
    for burstiness, cv in ((1.0, 1.0), (0.25, 2.0), (4.0, 0.5), (np.inf, 0.0)):
        times = BenchArrivals(5.0, burstiness).sample(40_000, np.random.default_rng(0))
        gaps = np.diff(times)
        assert times[-1] == pytest.approx(40_000 / 5.0)
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05, abs=1e-9)


# Files.

AIPERF = [
    {"session_id": "a", "timestamp": 100, "input_length": 300, "output_length": 40, "hash_ids": [1]},
    {"session_id": "b", "timestamp": 200, "input_length": 30, "output_length": 4, "hash_ids": [2]},
    {"session_id": "a", "delay": 1500, "input_length": 500, "output_length": 40, "hash_ids": [1]},
    {"session_id": "a", "delay": 250, "timestamp": 5000, "input_length": 501, "output_length": 40, "hash_ids": [1]},
]


def written(tmp_path: Path, rows: list[dict]) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def test_sessions_of_a_file(tmp_path: Path) -> None:
    load, note = read_trace(written(tmp_path, AIPERF))
    assert load.arrival_s == pytest.approx([0, 0.1, 1.5, 4.9])
    assert load.after.tolist() == [-1, -1, 0, 2]
    assert load.delay_s.tolist() == [0, 0, 1.5, 0.25]
    assert "later turns, sent when the reply before has come: 2" in note


def test_turns_with_timestamps_only_wait_for_the_reply_all_the_same(tmp_path: Path) -> None:
    rows = [{"session_id": 7, "timestamp": t, "input_length": 9, "output_length": 2} for t in (0, 900)]
    load, _ = read_trace(written(tmp_path, rows))
    assert (load.after.tolist(), load.delay_s.tolist()) == ([-1, 0], [0, 0])


def test_blocks_of_a_file_that_does_not_say_their_size(tmp_path: Path) -> None:
    path = written(tmp_path, [{"timestamp": 0, "input_length": 640, "output_length": 5, "hash_ids": list(range(10))}])
    with pytest.raises(InputError, match=r"10 hash_ids of 512 tokens .* give block_tokens"):
        read_trace(path)
    assert read_trace(path, block_tokens=64)[0].prefix_block_tokens == 64


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"session_id": "a", "input_length": 1, "output_length": 1}, ":5: no 'delay' and no 'timestamp'"),
        ({"session_id": "c", "delay": 1, "input_length": 1, "output_length": 1}, ":5: no 'timestamp' in this request"),
        ({"session_id": "a", "delay": -1, "input_length": 1, "output_length": 1}, ":5: delay = -1 is not"),
        (
            {"session_id": "a", "delay": None, "input_length": 1, "output_length": 1},
            ":5: no 'delay' and no 'timestamp'",
        ),
        ({"session_id": "a", "timestamp": 9, "input_length": 1, "output_length": 1}, ":5: timestamp is before that of"),
        ({"session_id": [1], "timestamp": 9, "input_length": 1, "output_length": 1}, ":5: session_id = "),
        ({"timestamp": 9, "ids_cover_replies": True, "input_length": 1, "output_length": 1}, ":5: ids_cover_replies"),
    ],
)
def test_bad_turns_are_refused_with_their_place(tmp_path: Path, row: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_trace(written(tmp_path, [*AIPERF, row]))


def test_sessions_survive_a_file(tmp_path: Path) -> None:
    load, path = conversation(n=60), tmp_path / "sessions.jsonl"
    write_mooncake(load, path)
    again, _ = read_trace(path)
    assert again.ids_cover_replies
    assert again.after.tolist() == load.after.tolist()
    assert again.delay_s == pytest.approx(load.delay_s)
    assert again.prefix_ids.tolist() == load.prefix_ids.tolist()
    assert again.arrival_s == pytest.approx(load.arrival_s - load.arrival_s[0])
    machine = Hardware("small", StepTime(c0=0.01), num_gpu_blocks=1001, block_size=16)
    served = [run(replace(w, arrival_s=load.arrival_s), machine, Greedy()) for w in (load, again)]
    assert served[0].cached_tokens.tolist() == served[1].cached_tokens.tolist()


def test_two_turns_after_one_reply_have_no_place_in_a_file(tmp_path: Path) -> None:
    fork = Workload(np.zeros(3), np.ones(3, int), np.ones(3, int), after=np.array([-1, 0, 0]), delay_s=np.zeros(3))
    with pytest.raises(InputError, match="several turns follow one reply"):
        write_mooncake(fork, tmp_path / "fork.jsonl")
