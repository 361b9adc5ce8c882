"""`Params`: a policy's parameters as its decision functions take them, an array in which each field has its name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import numpy as np

from fluidgate.arrays import FloatArray

Place = int | tuple[int, int]
"""Where a field is in the array: the number itself, or first and last + 1 of the numbers of a tuple."""

Places = tuple[tuple[str, Place], ...]


class Params(np.ndarray[Any, np.dtype[np.float64]]):
    """One float array; `params.share` is the number of the field `share`, and of a tuple the part of the array."""

    _places: ClassVar[Places] = ()


def pack_fields(values: Mapping[str, float | tuple[float, ...]]) -> Params:
    """The values in one array, in their order; a tuple is preceded by its length."""
    packed: list[float] = []
    places: list[tuple[str, Place]] = []
    for name, value in values.items():
        if isinstance(value, tuple):
            packed.append(len(value))
            places.append((name, (len(packed), len(packed) + len(value))))
            packed.extend(value)
        else:
            places.append((name, len(packed)))
            packed.append(value)
    return np.array(packed, dtype=np.float64).view(_kind(tuple(places)))


def places_of(params: FloatArray) -> Places:
    """The fields with a name; none in an array that a policy packs itself."""
    return params._places if isinstance(params, Params) else ()


@cache
def _kind(places: Places) -> type[Params]:
    return type("Params", (Params,), {"_places": places, **{name: _field(place) for name, place in places}})


def _field(place: Place) -> property:
    if isinstance(place, int):
        return property(lambda params: params[place])
    start, stop = place
    return property(lambda params: params[start:stop].view(np.ndarray))
