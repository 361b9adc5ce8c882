"""Pages that hold several servers, as a federated or relabelled one does: the lines of each."""

from __future__ import annotations

from collections.abc import Sequence

from fluidgate.errors import InputError
from fluidgate.vllm_metrics.exposition import Sample
from fluidgate.vllm_metrics.names import FINISHED, RUNNING
from fluidgate.words import shown

OF_ONE_SERVER = ("engine", "pid", "finished_reason")
"""Labels in which the lines of one server may differ."""

PREFERRED = ("pod", "pod_name", "kubernetes_pod_name", "instance", "server", "hostname", "host", "namespace")
"""Labels by which people know a server."""

Key = tuple[str | None, ...]


def servers_of(samples: Sequence[Sample], where: str) -> dict[str, list[Sample]]:
    """The lines of each server, by a name such as "pod=a"; the name of a server that is alone is empty.

    Servers differ in labels of one engine's running requests, other than those of `OF_ONE_SERVER`. Lines of other
    programs that tell no server are left out.

    Raises:
        InputError: one of vLLM's own lines that does not say whose it is.
    """
    gauges = [sample for sample in samples if sample.name == RUNNING]
    gauges = gauges or [sample for sample in samples if sample.name == FINISHED]
    labels = _telling(gauges)
    if not labels:
        return {"": list(samples)}
    keys = list(dict.fromkeys(_key(sample, labels) for sample in gauges))
    names = _names(keys, labels)
    lines: dict[Key, list[Sample]] = {key: [] for key in keys}
    for sample in samples:
        own = _key(sample, labels)
        owners = [own] if own in lines else [key for key in keys if _fits(own, key)]
        if len(owners) == 1:
            lines[owners[0]].append(sample)
        elif sample.name.startswith("vllm:"):
            some = ", ".join([*names.values()][:3]) + ", …" * (len(keys) > 3)
            raise InputError(
                f"{where}, line {sample.line}: {sample.name} does not say which of {len(keys)} servers it is of "
                f"({some}); save the page of each server by itself"
            )
    return {names[key]: lines[key] for key in keys}


def _telling(gauges: Sequence[Sample]) -> list[str]:
    """The labels that have several values among the lines of one engine, in the order of their names.

    Those of `PREFERRED`, and models, tell servers apart whatever the engine's number.
    """
    values: dict[tuple[str, str], set[str | None]] = {}
    known = sorted({label for sample in gauges for label in sample.labels} - {*OF_ONE_SERVER})
    for sample in gauges:
        for label in known:
            engine = "" if label in (*PREFERRED, "model_name") else sample.labels.get("engine", "0")
            values.setdefault((engine, label), set()).add(sample.labels.get(label))
    return [label for label in known if any(len(told) > 1 for (_, name), told in values.items() if name == label)]


def _key(sample: Sample, labels: Sequence[str]) -> Key:
    return tuple(sample.labels.get(label) for label in labels)


def _fits(own: Key, key: Key) -> bool:
    return any(value is not None for value in own) and all(
        value is None or value == other for value, other in zip(own, key, strict=True)
    )


def _names(keys: Sequence[Key], labels: Sequence[str]) -> dict[Key, str]:
    for label in sorted(labels, key=lambda name: PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)):
        values = [key[labels.index(label)] for key in keys]
        if None not in values and len(set(values)) == len(keys):
            return {key: f"{label}={_word(value)}" for key, value in zip(keys, values, strict=True)}
    pairs = (
        (key, [f"{label}={_word(value)}" for label, value in zip(labels, key, strict=True) if value is not None])
        for key in keys
    )
    return {key: ", ".join(words) for key, words in pairs}


def _word(value: str | None) -> str:
    """A label's value; quoted where it is long or holds what should not be printed."""
    text = value or ""
    return text if text and text.isprintable() and len(text) <= 60 else shown(text)
