"""What Vidur's two schedulers do, once more: lists and loops, from a reading of microsoft/vidur 7d47513.

Source: `vidur/scheduler/replica_scheduler/{sarathi,vllm}_replica_scheduler.py` and `vidur/entities/request.py`. One
replica without pipeline stages, whose steps take the time that the hardware says. It shares no code with the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware
from fluidgate.workload import Workload


@dataclass(eq=False)
class Request:
    arrival_s: float
    prefill: int  # a restart adds the tokens generated so far
    total: int
    done: int = 0  # tokens processed; the end of the prefill gives one more
    decodes: bool = False
    blocks: int = 0
    restarts: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


class VidurReplica:
    """Replays a workload under the settings of the preset `vidur`; `requests` tell what happened."""

    def __init__(self, workload: Workload, hardware: Hardware, config: EngineConfig) -> None:
        lengths = zip(workload.prompt_tokens.tolist(), workload.output_tokens.tolist(), strict=True)
        arrivals = zip(workload.arrival_s.tolist(), lengths, strict=True)
        self.requests = [Request(at, prompt, prompt + output) for at, (prompt, output) in arrivals]
        self.step_time, self.block_size = hardware.step_time, hardware.block_size
        self.free = hardware.num_gpu_blocks - 1
        self.spare = int(config.decodes_need_spare_block)
        self.padded, self.budget = config.pad_prompt_batches, config.token_budget(0)
        self.watermark = int(config.watermark_share * hardware.num_gpu_blocks)  # the null block counts, unlike in Vidur
        self.seats = config.seats
        self.form_batch = self.sarathi if config.mode == "sarathi" else self.whole_prompts
        self.queue: list[Request] = []
        self.residents: list[Request] = []  # in order of arrival
        self.now_s = 0.0

    def run(self) -> None:
        coming = list(self.requests)
        while coming or self.queue or self.residents:
            if not self.queue and not self.residents:
                self.now_s = max(self.now_s, coming[0].arrival_s)
            while coming and coming[0].arrival_s <= self.now_s:
                self.queue.append(coming.pop(0))
            self.execute(self.form_batch())

    def sarathi(self) -> list[tuple[Request, int]]:
        """Decodes, then the prompts that have begun, then new ones: chunks of what the decodes leave."""
        batch = self.decode()
        for request in [r for r in self.residents if not r.decodes]:
            tokens = min(request.prefill - request.done, self.budget - sum(n for _, n in batch))
            if tokens > 0:
                batch.append((request, tokens))
        while self.queue and (left := self.budget - sum(n for _, n in batch)) > 0 and self.fits(self.queue[0]):
            request = self.enter()
            batch.append((request, min(request.prefill, left)))
        return batch

    def whole_prompts(self) -> list[tuple[Request, int]]:
        """Prompts while there are any; a batch is as wide as its longest one, or counts what it has."""
        batch: list[tuple[Request, int]] = []
        while self.queue and self.fits(self.queue[0]):
            tokens = [n for _, n in batch] + [self.queue[0].prefill]
            if (len(tokens) * max(tokens) if self.padded else sum(tokens)) > self.budget:
                break
            request = self.enter()
            batch.append((request, request.prefill))
        return batch or self.decode()

    def decode(self) -> list[tuple[Request, int]]:
        """A token for every resident that is past its prefill, the first one first; the last one makes room."""
        batch: list[tuple[Request, int]] = []
        for request in [r for r in self.residents if r.decodes]:
            if request not in self.residents:
                break
            need = max(0, -(-request.done // self.block_size) - request.blocks)
            while max(need, self.spare) > self.free and request in self.residents:
                self.restart(self.residents.pop())
            if request in self.residents:
                self.free -= need
                request.blocks += need
                batch.append((request, 1))
        return batch

    def fits(self, request: Request) -> bool:
        room = self.free - (self.watermark if self.residents else 0)  # Vidur's holds in an empty cache as well
        return len(self.residents) < self.seats and -(-request.prefill // self.block_size) <= room

    def enter(self) -> Request:
        request = self.queue.pop(0)
        request.blocks = -(-request.prefill // self.block_size)
        self.free -= request.blocks
        self.residents = sorted([*self.residents, request], key=self.requests.index)
        return request

    def restart(self, request: Request) -> None:
        if request.decodes:
            request.prefill = request.done
        self.free += request.blocks
        request.blocks, request.done, request.decodes = 0, 0, False
        request.restarts += 1
        self.queue.insert(0, request)

    def execute(self, batch: list[tuple[Request, int]]) -> None:
        kv = pairs = 0
        for request, tokens in batch:
            before = request.done - request.decodes  # the token just given is not in the cache
            kv += before + tokens
            alone = tokens == 1 and request.restarts > 0  # a prompt's last token, computed again: here a decode
            pairs += 0 if request.decodes or alone else sum(before + k for k in range(1, tokens + 1))
        if batch:
            self.now_s += self.step_time.duration_s(sum(n for _, n in batch), kv, pairs, len(batch))
        for request, tokens in batch:
            request.done += tokens
            if not request.decodes and request.done == request.prefill:
                request.done += 1
                request.decodes = True
                request.first_s = request.first_s or self.now_s
            if request.done == request.total:
                request.last_s = self.now_s
                self.free += request.blocks
                self.residents.remove(request)
