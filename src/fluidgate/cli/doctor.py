"""`fluidgate doctor`: what a running vLLM's metrics or log say about KV memory, and what to change."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidgate.bounds import MAX_COUNT, MAX_GPUS
from fluidgate.cli import names
from fluidgate.cli import options as o
from fluidgate.errors import InputError

if TYPE_CHECKING:
    from fluidgate.doctor import Facts
    from fluidgate.hardware import Hardware

EXAMPLE = "Example: `fluidgate doctor http://localhost:8000 --wait-s 60 --model llama-3.1-8b --gpu h100-80gb`"

_H, _E = "Hardware", "Engine"
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="URL|FILE...",
        help="Addresses of servers, saved scrapes of /metrics, or vLLM's logs; several are replicas.",
    ),
]
Second = Annotated[Path | None, typer.Option("--second", help="A later scrape of the same run.")]
Wait = Annotated[
    float | None,
    typer.Option("--wait-s", help="Scrape for this many seconds; with --second: the seconds between the two."),
]
WatchEvery = Annotated[
    float | None,
    typer.Option(
        "--watch",
        help="Look every so many seconds, a line each, until Ctrl-C or for --wait-s.",
        metavar="SECONDS",
        min=0.05,
        max=86400.0,
    ),
]


@dataclass(frozen=True)
class MachineOptions:
    """What the server runs on."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Model name, for step times.",
            rich_help_panel=_H,
            autocompletion=names.completed(names.models),
        ),
    ] = None
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu", help="GPU name, for step times.", rich_help_panel=_H, autocompletion=names.completed(names.gpus)
        ),
    ] = None
    tp: Annotated[int, typer.Option("--tp", help="Tensor-parallel GPUs.", min=1, max=MAX_GPUS, rich_help_panel=_H)] = 1
    model_config: Annotated[
        Path | None, typer.Option("--model-config", help="Hugging Face config.json of the model.", rich_help_panel=_H)
    ] = None
    hardware_file: Annotated[
        Path | None, typer.Option("--hardware", help="Hardware file, instead of model and GPU.", rich_help_panel=_H)
    ] = None
    num_gpu_blocks: Annotated[
        int | None, typer.Option("--num-gpu-blocks", help="KV blocks, if the page does not say.", rich_help_panel=_H)
    ] = None
    block_size: Annotated[
        int | None, typer.Option("--block-size", help="Tokens per block, if the page does not say.", rich_help_panel=_H)
    ] = None
    kv_cache_tokens: Annotated[
        int | None,
        typer.Option("--kv-cache-tokens", help="KV cache in tokens, as vLLM logs its size.", rich_help_panel=_H),
    ] = None

    def load(self) -> Hardware | None:
        """What gives step times; None where nothing was named."""
        if self.num_gpu_blocks is not None and self.kv_cache_tokens is not None:
            raise InputError("the KV cache is given twice: leave --num-gpu-blocks or --kv-cache-tokens out")
        if self.kv_cache_tokens is None and (self.num_gpu_blocks is None) != (self.block_size is None):
            raise InputError("--num-gpu-blocks and --block-size go together: give both")
        if self.hardware_file is None and self.model is None and self.gpu is None:
            if (self.tp, self.model_config) != (1, None):
                raise InputError("--tp and --model-config describe a model on a GPU: add --model and --gpu")
            return None
        if self.hardware_file is not None:
            if (self.model, self.gpu, self.tp, self.model_config) != (None, None, 1, None):
                raise InputError("--hardware states the machine: leave --model, --gpu, --tp and --model-config out")
            return o.HardwareOptions(
                hardware_file=self.hardware_file
            ).load()  # whose KV cache gives way, see `stated_in`
        if self.model is None or self.gpu is None:
            raise InputError("--model and --gpu go together: step times depend on both")
        return o.HardwareOptions(
            model=self.model,
            gpu=self.gpu,
            tp=self.tp,
            model_config=self.model_config,
            num_gpu_blocks=self.num_gpu_blocks,
            kv_cache_tokens=self.kv_cache_tokens,
            block_size=self.block_size,
        ).load()

    def stated_in(self, facts: Facts) -> Facts:
        """With the KV memory that the options state, if they do."""
        if self.kv_cache_tokens is not None:
            return facts.with_kv_tokens(self.kv_cache_tokens, self.block_size)
        if self.num_gpu_blocks is None or self.block_size is None:
            return facts
        given = "--num-gpu-blocks and --block-size"
        return facts.with_kv(self.num_gpu_blocks, self.block_size, source=f"what {given} give")


@dataclass(frozen=True)
class LimitOptions:
    """The server's limits, which no page states."""

    max_num_seqs: Annotated[
        int | None,
        typer.Option("--max-num-seqs", help="The server's value.", min=1, max=MAX_COUNT, rich_help_panel=_E),
    ] = None
    max_num_batched_tokens: Annotated[
        int | None,
        typer.Option("--max-num-batched-tokens", help="The server's value.", min=1, max=MAX_COUNT, rich_help_panel=_E),
    ] = None

    vllm_version: Annotated[
        str | None,
        typer.Option("--vllm-version", help="The server's, such as 0.30, if it does not say.", rich_help_panel=_E),
    ] = None

    def stated_in(self, facts: Facts) -> Facts:
        """With these in place of what a log states."""
        if self.vllm_version is not None:
            stated = facts.of_version(self.vllm_version)
            if stated.version is None or stated.release is None:
                raise InputError(f"--vllm-version {self.vllm_version!r} is no version; give one such as 0.30")
            facts = stated
        return replace(
            facts,
            max_num_seqs=self.max_num_seqs or facts.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens or facts.max_num_batched_tokens,
        )


@o.grouped
def command(
    sources: Sources,
    machine: MachineOptions,
    limits: LimitOptions,
    second: Second = None,
    wait_s: Wait = None,
    watch_s: WatchEvery = None,
    api_key: o.ApiKey = None,
    output_format: o.OutputFormat = o.Format.TABLE,
) -> None:
    """Say whether KV memory binds on a running vLLM, what it costs, how far the boundary is, and what to change."""
    from fluidgate.cli.doctor_output import print_diagnosis, print_fleet
    from fluidgate.doctor import diagnose, diagnose_fleet, read_servers
    from fluidgate.doctor.read import as_address

    hardware, as_json = machine.load(), output_format is o.Format.JSON
    if watch_s is not None:
        servers, unread, told = _watch(sources, second, watch_s, wait_s, limits, api_key, as_json)
    else:
        told = None
        addresses = [address for source in sources if (address := as_address(source))]
        if wait_s is not None and addresses:
            o.say(f"scraping {', '.join(address.url for address in addresses)} for {wait_s:g} s")
        servers, unread = read_servers(sources, second, wait_s, api_key=api_key)
    servers = [limits.stated_in(machine.stated_in(facts)) for facts in servers]
    if len(servers) + len(unread) == 1:
        diagnosis = diagnose(servers[0], hardware)
        if as_json:
            _write(diagnosis.to_dict(), watch_s, told)
        else:
            print_diagnosis(diagnosis, o.console(output_format))
        return
    fleet = diagnose_fleet(servers, hardware, unread)
    if as_json:
        _write(fleet.to_dict(), watch_s, told)
    else:
        print_fleet(fleet, o.console(output_format))
    if unread:
        raise typer.Exit(1)


def _write(diagnosis: dict[str, Any], watch_s: float | None, told: str | None) -> None:
    """As JSON; where lines of looks come before it, one line, with what they told."""
    if watch_s is None:
        o.write_json(diagnosis)
    else:
        print(json.dumps({"trend": told, "diagnosis": diagnosis}, ensure_ascii=False, allow_nan=False))


def _watch(
    sources: list[str],
    second: Path | None,
    every_s: float,
    wait_s: float | None,
    limits: LimitOptions,
    api_key: str | None,
    as_json: bool,
) -> tuple[list[Facts], list[tuple[str, str]], str | None]:
    """Look until Ctrl-C or for `wait_s`, a line for each look; then what all looks say, and how they change."""
    from fluidgate.cli.doctor_output import LOOKS, look_line
    from fluidgate.doctor import Watch
    from fluidgate.doctor.read import as_address
    from fluidgate.doctor.watch import trend
    from fluidgate.jsonfile import plain

    addresses = [address for source in sources if (address := as_address(source, api_key))]
    if second is not None or len(addresses) < len(sources):
        raise InputError("--watch looks at servers that run: give addresses, such as http://HOST:8000, and no files")
    if len({address.url for address in addresses}) < len(addresses):
        raise InputError("an address is given twice, and would count as two servers; give each once")
    watch = Watch(addresses, limits.max_num_seqs, limits.max_num_batched_tokens)
    end_s = inf if wait_s is None else time.monotonic() + wait_s
    try:
        while True:
            next_s = time.monotonic() + every_s
            look = watch.look()
            if as_json:
                print(json.dumps(plain(look, finite=True), allow_nan=False), flush=True)
            else:
                print(*([LOOKS] if len(watch.looks) == 1 else []), look_line(look), sep="\n", flush=True)
            if next_s > end_s:
                break
            time.sleep(max(0.0, next_s - time.monotonic()))
    except KeyboardInterrupt:
        if not watch.looks:
            raise
        o.say("stopped; what the looks say together:")
    told = trend(watch.looks)
    if told is not None and not as_json:
        print(f"\n{told}\n")
    return *watch.facts(), told
