"""`fluidgate doctor`: what a running vLLM's metrics or log say about KV memory, and what to change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluidgate.bounds import MAX_COUNT, MAX_GPUS
from fluidgate.cli import options as o
from fluidgate.errors import InputError
from fluidgate.words import escaped

if TYPE_CHECKING:
    from rich.table import Table

    from fluidgate.doctor import Diagnosis, Facts
    from fluidgate.hardware import Hardware

EXAMPLE = "Example: `fluidgate doctor http://localhost:8000 --wait-s 60 --model llama-3.1-8b --gpu h100-80gb`"

_H, _E = "Hardware", "Engine"
Source = Annotated[
    str, typer.Argument(metavar="URL|FILE", help="A server's address, a saved scrape of /metrics, or vLLM's log.")
]
Second = Annotated[Path | None, typer.Option("--second", help="A later scrape of the same run.")]
Wait = Annotated[
    float | None,
    typer.Option("--wait-s", help="Scrape for this many seconds; with --second: the seconds between the two."),
]


@dataclass(frozen=True)
class MachineOptions:
    """What the server runs on."""

    model: Annotated[str | None, typer.Option("--model", help="Model name, for step times.", rich_help_panel=_H)] = None
    gpu: Annotated[str | None, typer.Option("--gpu", help="GPU name, for step times.", rich_help_panel=_H)] = None
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

    def stated_in(self, facts: Facts) -> Facts:
        """With these in place of what a log states."""
        return replace(
            facts,
            max_num_seqs=self.max_num_seqs or facts.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens or facts.max_num_batched_tokens,
        )


@o.grouped
def command(
    source: Source,
    machine: MachineOptions,
    limits: LimitOptions,
    second: Second = None,
    wait_s: Wait = None,
    api_key: o.ApiKey = None,
    output_format: o.OutputFormat = o.Format.TABLE,
) -> None:
    """Say whether KV memory binds on a running vLLM, what it costs, how far the boundary is, and what to change."""
    from fluidgate.doctor import diagnose, read_facts
    from fluidgate.vllm_metrics.address import without_credentials

    hardware = machine.load()
    if wait_s is not None and "://" in source:
        o.say(f"scraping {without_credentials(source)} for {wait_s:g} s")
    facts = machine.stated_in(read_facts(source, second, wait_s, api_key=api_key))
    diagnosis = diagnose(limits.stated_in(facts), hardware)
    if output_format is o.Format.JSON:
        o.write_json(diagnosis.to_dict())
    else:
        _print(diagnosis)


def _print(diagnosis: Diagnosis) -> None:
    console = o.console()
    console.print(escaped(diagnosis.source), style="bold", highlight=False)
    console.print(_findings(diagnosis))
    if diagnosis.changes:
        console.print("What to change, in order of benefit", style="bold", highlight=False)
        console.print(_changes(diagnosis))
    if diagnosis.kv_cache:
        console.print(f"KV cache of an engine: {escaped(diagnosis.kv_cache)}", highlight=False)
    for note in diagnosis.notes:
        console.print(note, highlight=False)


def _findings(diagnosis: Diagnosis) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    colours = {"act": "red", "watch": "yellow", "fine": "green", "cannot tell": "dim"}
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column("severity", no_wrap=True)
    table.add_column("finding", no_wrap=True)
    table.add_column("says")
    for finding in diagnosis.findings:
        table.add_row(Text(finding.severity, style=colours[finding.severity]), Text(finding.name), Text(finding.says))
    return table


def _changes(diagnosis: Diagnosis) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("what", style="bold", overflow="fold", max_width=62)
    table.add_column("why")
    for rank, change in enumerate(diagnosis.changes, 1):
        table.add_row(str(rank), Text(change.what), Text(change.why))
    return table
