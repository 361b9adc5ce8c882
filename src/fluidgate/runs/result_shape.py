"""What a job's result must look like, to recognise one that another version of the code kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

Shape = Mapping[str, Any]
"""Types by name, for `isinstance` (a whole number is a `float` too); `[shape]` is a list of such objects."""


def shape_of(kind: type, **others: Any) -> Shape:
    """The shape of a dataclass's fields.

    Args:
        others: fields that JSON holds in another shape; None: not at all.
    """
    shape = {name: _shape(hint) for name, hint in get_type_hints(kind).items()} | others
    return {name: field_shape for name, field_shape in shape.items() if field_shape is not None}


def _shape(hint: Any) -> Any:
    return [get_args(hint)[0]] if get_origin(hint) is list else hint


def fits(value: Any, shape: Any) -> bool:
    """Whether a value from JSON has the shape, no less and no more."""
    if isinstance(shape, Mapping):
        same = isinstance(value, Mapping) and value.keys() == shape.keys()
        return same and all(fits(value[name], field_shape) for name, field_shape in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    return isinstance(value, int | float if shape is float else shape)
