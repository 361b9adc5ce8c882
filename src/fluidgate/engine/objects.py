"""Records as Python objects: what the interpreter reads and writes many times faster than numpy's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fluidgate.engine.layout import Records, State

_TABLES = ("run", "setting", "rows", "watched", "queues", "seats", "peaks", "retired", "flights", "batch")


def with_objects(state: State) -> State:
    """`state` with lists of objects in place of its records; the other arrays are shared."""
    return state._replace(**{name: _objects(getattr(state, name)) for name in _TABLES})


def write_back(objects: State, state: State) -> None:
    """Bring the records of `state` up to the objects that `with_objects` made of them."""
    for name in _TABLES:
        _write(getattr(objects, name), getattr(state, name))


def _objects(records: Records) -> Any:
    if records.ndim > 1:
        return [_objects(part) for part in records]
    return [SimpleNamespace(**dict(zip(records.dtype.names or (), values, strict=True))) for values in records.tolist()]


def _write(objects: Any, records: Records) -> None:
    for i, one in enumerate(objects):
        if isinstance(one, list):
            _write(one, records[i])
        else:
            records[i] = tuple(vars(one).values())
