"""What numba makes of `by_address`: the type of a pointer, with the parts of the tuple behind it."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed, lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, models, overload, register_model

from fluidgate.engine.by_address import by_address


class _AddressOf(types.Type):  # type: ignore[misc]
    def __init__(self, whole: Any) -> None:
        self.whole = whole
        super().__init__(f"AddressOf({whole})")


@register_model(_AddressOf)
class _AddressModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, of: _AddressOf) -> None:
        super().__init__(manager, of, manager.lookup(of.whole).get_value_type().as_pointer())


@infer_getattr
class _PartsOfWhole(AttributeTemplate):  # type: ignore[misc]
    key = _AddressOf

    def generic_resolve(self, address: _AddressOf, part: str) -> Any:
        fields = address.whole.fields
        return address.whole.types[fields.index(part)] if part in fields else None


@lower_getattr_generic(_AddressOf)  # type: ignore[untyped-decorator]
def _load_part(context: Any, builder: Any, address: _AddressOf, pointer: Any, part: str) -> Any:
    i = address.whole.fields.index(part)
    loaded = builder.load(cgutils.gep_inbounds(builder, pointer, 0, i))
    return impl_ret_borrowed(context, builder, address.whole.types[i], loaded)


@intrinsic  # type: ignore[untyped-decorator]
def _address_of(_typing: Any, whole: Any) -> Any:
    def store(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return cgutils.alloca_once_value(builder, arguments[0])

    return _AddressOf(whole)(whole), store


@overload(by_address, strict=False, inline="always")  # type: ignore[untyped-decorator]
def _compiled_by_address(value: Any) -> Any:
    return lambda value: _address_of(value)
