"""A reference scheduler to hold the engine against: lists, dicts and loops, one token at a time, nothing clever.

Written from docs/engine.md; it shares no code with the engine but `EngineConfig`, `Workload` and `Hardware`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware
from fluidgate.workload import Workload

Token = tuple[object, ...]
"""What a token says: tokens of the same content are equal."""


@dataclass(eq=False)
class Request:
    row: int
    arrival_s: float
    wanted: int
    prompt: list[Token]
    reply: list[Token]
    generated: int = 0
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    resident: bool = False
    streamed: int = 0  # tokens that the user has seen; after a restart more than `generated`
    prefilled: int = -1  # tokens computed when it last got one
    furthest: int = 0  # most tokens computed in a residency before this one
    token_s: list[float] = field(default_factory=list)
    first_scheduled_s: float = math.nan
    preemptions: int = 0
    recomputed: int = 0
    cached: int = 0

    @property
    def text(self) -> list[Token]:
        return self.prompt + self.reply[: self.generated]

    @property
    def missing(self) -> int:
        """Tokens not yet computed: more than one in a prefill, one in a decode."""
        return len(self.prompt) + self.generated - self.computed

    @property
    def decodes(self) -> bool:
        """Whether it has computed all but its latest token; not where only the last token of a prefill is missing."""
        return self.missing == 1 and self.computed == self.prefilled


class Memory:
    """Blocks by number. The list of free ones is in order of eviction; content stays until a block is handed out."""

    def __init__(self, hardware: Hardware, *, caching: bool) -> None:
        self.size = hardware.block_size
        self.caching = caching
        self.free = list(range(1, hardware.num_gpu_blocks))  # block 0 is the null block
        self.users = dict.fromkeys(self.free, 0)
        self.content: dict[int, int] = {}  # block → name of all text up to its end
        self.holders: dict[int, list[int]] = {}  # name → blocks, oldest first
        self.names: dict[tuple[int, tuple[Token, ...]], int] = {}

    def names_of(self, text: list[Token]) -> list[int]:
        """A name for every full block of a text; equal names mean equal text from the start."""
        names: list[int] = []
        for end in range(self.size, len(text) + 1, self.size):
            step = (names[-1] if names else 0, tuple(text[end - self.size : end]))
            names.append(self.names.setdefault(step, len(self.names) + 1))
        return names

    def find(self, text: list[Token]) -> list[int]:
        """Blocks that hold the beginning of a text; its last token is always computed, for its logits."""
        found: list[int] = []
        for name in self.names_of(text[:-1]) if self.caching else []:
            if not self.holders.get(name):
                break
            found.append(self.holders[name][0])
        return found

    def share(self, block: int) -> None:
        if self.users[block] == 0:
            self.free.remove(block)
        self.users[block] += 1

    def hand_out(self) -> int:
        block = self.free.pop(0)
        if block in self.content:
            self.holders[self.content.pop(block)].remove(block)
        self.users[block] = 1
        return block

    def publish(self, request: Request, computed: int) -> None:
        """Full blocks can be found from the moment their tokens are scheduled."""
        if self.caching:
            names = self.names_of(request.text[:computed])
            for block, name in zip(request.blocks, names, strict=False):
                if block not in self.content:
                    self.content[block] = name
                    self.holders.setdefault(name, []).append(block)

    def give_back(self, request: Request) -> None:
        """Blocks with content are evicted last, a request's tail first; blocks without any are used up first."""
        unused = []
        for block in reversed(request.blocks):
            self.users[block] -= 1
            if self.users[block] == 0:
                unused.append(block)
        blank = [block for block in unused if block not in self.content]
        self.free = blank + self.free + [block for block in unused if block in self.content]
        request.blocks = []


@dataclass(frozen=True)
class Step:
    start_s: float
    end_s: float
    batch: list[tuple[int, int]]
    victims: list[int]
    free_blocks: int


class Scheduler:
    """Replays a workload; `steps` and the requests tell what happened."""

    def __init__(self, workload: Workload, hardware: Hardware, config: EngineConfig) -> None:
        self.config, self.hardware = config, hardware
        self.memory = Memory(hardware, caching=config.enable_prefix_caching)
        self.budget = config.token_budget(int((workload.prompt_tokens + workload.output_tokens).max()))
        self.watermark = int(config.watermark_share * hardware.num_gpu_blocks)
        self.requests = [_request(workload, row) for row in range(len(workload))]
        self.coming = list(self.requests)
        self.waiting: list[Request] = []
        self.residents: list[Request] = []
        self.batch: list[tuple[Request, int]] = []
        self.victims: list[Request] = []
        self.steps: list[Step] = []
        self.now_s = 0.0
        self.since_prefill = math.inf  # steps that computed anything since the last one with a prompt, itself included
        self.left_some = False  # the last step that took prompts left requests waiting

    def run(self) -> None:
        form_batch = {"vllm": self.vllm, "sarathi": self.sarathi, "prefill-first": self.prefill_first}
        while self.coming or self.waiting or self.residents:
            if not self.waiting and not self.residents:
                self.now_s = max(self.now_s, self.coming[0].arrival_s)
            while self.coming and self.coming[0].arrival_s <= self.now_s:
                self.waiting.append(self.coming.pop(0))
            self.batch, self.victims = [], []
            form_batch[self.config.mode]()
            self.execute()

    # the three modes

    def vllm(self) -> None:
        """Residents in order under one budget, then admissions unless a request was preempted."""
        left = self.budget
        longest = self.config.long_prefill_token_threshold
        alone = len(self.residents) + len(self.waiting) == 1
        if longest == 0 or (alone and not self.config.cut_lone_prefill):  # no other request to starve
            longest = self.budget
        held = self.since_prefill < self.config.prefill_schedule_interval and not self.left_some
        held = held and any(request.decodes for request in self.residents)
        prompts = False
        for request in list(self.residents):
            if left == 0 or not request.resident:
                break
            if held and not request.decodes:
                continue
            tokens = min(request.missing, longest, left)
            if not self.continue_with(request, tokens):
                break
            prompts |= not request.decodes
            left -= tokens
        while left > 0 and not self.victims:
            tokens = self.admit(most=min(longest, left), whole=False, held=held)
            if tokens == 0:
                break
            prompts |= self.residents[-1].missing > 1
            left -= tokens
        if not held and not self.victims:
            self.left_some = bool(self.waiting)
        self.since_prefill = 1 if prompts else self.since_prefill + bool(self.batch)

    def sarathi(self) -> None:
        """Every decode, then started prompts, then new ones in chunks of what is left of the budget."""
        left = self.budget
        for request in list(self.residents):
            if request.resident and request.missing == 1 and self.continue_with(request, 1):
                left -= 1
        for request in list(self.residents):
            tokens = min(request.missing, left)
            if request.missing > 1 and tokens > 0:
                assert self.continue_with(request, tokens), "a prompt has all its blocks"
                left -= tokens
        while left > 0 and not self.victims:
            tokens = self.admit(most=left, whole=True)
            if tokens == 0:
                break
            left -= tokens

    def prefill_first(self) -> None:
        """Whole prompts under the budget; decodes only when no prompt starts."""
        left = self.budget
        while self.waiting and len(self.waiting[0].text) - self.arrived(self.waiting[0]) <= left:
            tokens = self.admit(most=left, whole=True)
            if tokens == 0:
                break
            left -= tokens
        if not self.batch:
            for request in list(self.residents):
                if request.resident:
                    self.continue_with(request, 1)

    # what they share

    def continue_with(self, request: Request, tokens: int) -> bool:
        """Schedule a resident, evicting the last residents until its blocks fit; False if it had to go itself."""
        blocks = math.ceil((request.computed + tokens) / self.memory.size) - len(request.blocks)
        while blocks > len(self.memory.free):
            victim = self.residents.pop()
            self.evict(victim)
            if victim is request:
                return False
        self.schedule(request, tokens, blocks)
        return True

    def evict(self, victim: Request) -> None:
        self.memory.give_back(victim)
        victim.resident = False
        victim.furthest = max(victim.furthest, victim.computed)
        victim.computed, victim.prefilled = 0, -1
        victim.preemptions += 1
        if self.config.preemption == "restart":
            victim.generated = 0
        self.waiting.insert(0, victim)
        self.victims.append(victim)

    def admit(self, *, most: int, whole: bool, held: bool = False) -> int:
        """Admit the first waiting request if it fits; returns its tokens, 0 if it must wait."""
        if not self.waiting or len(self.residents) >= self.config.seats:
            return 0
        request = self.waiting[0]
        text = request.text
        found = self.memory.find(text)
        kept = request.furthest if self.config.preemption == "offload" else 0
        start = max(len(found) * self.memory.size, kept, self.arrived(request))
        if held and len(text) - start > 1:
            return 0
        tokens = min(len(text) - start, most)
        blocks_of_all = math.ceil(len(text) / self.memory.size)
        blocks = blocks_of_all if whole else math.ceil((start + tokens) / self.memory.size)
        must_fit = blocks_of_all if self.config.scheduler_reserve_full_isl else blocks
        held = sum(self.memory.users[block] > 0 for block in found)
        room = len(self.memory.free) - (self.watermark if self.residents else 0)
        if max(blocks, must_fit) - held > room:
            return 0
        self.waiting.pop(0)
        self.seat(request, found, start)
        self.schedule(request, tokens, blocks - len(found))
        return tokens

    def arrived(self, request: Request) -> int:
        """Tokens whose KV another server has sent: once, or whenever a request starts from nothing."""
        if not self.config.prompts_arrive_computed or (request.preemptions and self.config.preemption != "restart"):
            return 0
        return len(request.prompt) - 1

    def seat(self, request: Request, found: list[int], start: int) -> None:
        for block in found:
            self.memory.share(block)
        request.blocks = list(found)
        request.computed = start
        request.resident = True
        if request.preemptions == 0:
            request.cached = request.computed
            request.first_scheduled_s = self.now_s
        self.residents.append(request)

    def schedule(self, request: Request, tokens: int, blocks: int) -> None:
        request.blocks += [self.memory.hand_out() for _ in range(blocks)]
        self.memory.publish(request, request.computed + tokens)
        self.batch.append((request, tokens))

    def execute(self) -> None:
        """Compute the batch token by token, let time pass, hand out the tokens."""
        pairs = context = 0
        for request, tokens in self.batch:
            began = request.generated > 0 or self.config.prompts_arrive_computed
            decode = tokens == 1 == request.missing and began
            for _ in range(tokens):
                request.recomputed += request.computed < request.furthest
                request.computed += 1
                pairs += 0 if decode else request.computed
            context += request.computed
        computed = sum(tokens for _, tokens in self.batch)
        start_s, free = self.now_s, len(self.memory.free)
        if self.batch:
            self.now_s += self.hardware.step_time.duration_s(computed, context, pairs, len(self.batch))
        batch = [(request.row, tokens) for request, tokens in self.batch]
        self.steps.append(Step(start_s, self.now_s, batch, [victim.row for victim in self.victims], free))
        for request, _ in self.batch:
            if request.missing == 0:
                self.give_token(request)

    def give_token(self, request: Request) -> None:
        request.generated += 1
        request.prefilled = request.computed
        if request.generated > request.streamed:
            request.streamed = request.generated
            request.token_s.append(self.now_s)
        if request.generated == request.wanted:
            self.memory.give_back(request)
            self.residents.remove(request)


def _request(workload: Workload, row: int) -> Request:
    """A request whose text is equal to others' where the trace names the same content."""
    ids = workload.prefix_ids[workload.prefix_offsets[row] : workload.prefix_offsets[row + 1]].tolist()
    unit = workload.prefix_block_tokens
    prompt, output = int(workload.prompt_tokens[row]), int(workload.output_tokens[row])
    named = prompt + output if workload.ids_cover_replies else prompt
    text: list[Token] = []
    for position in range(prompt + output):
        if position < named and unit and position // unit < len(ids):
            text.append(("shared", ids[position // unit], position % unit))
        else:
            text.append(("own", row, position))
    return Request(row, float(workload.arrival_s[row]), output, text[:prompt], text[prompt:])
