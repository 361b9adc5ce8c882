"""`option` and `grouped`: commands whose options come in groups, each a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import typer


def option(panel: str, *names: str, help: str, **more: Any) -> Any:
    """An option under a heading of its command's help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def changed(options: Any) -> dict[str, str]:
    """The fields of an option group that are not at their default, with the names of their options."""
    return {
        field.name: f"--{field.name.replace('_', '-')}"
        for field in fields(options)
        if getattr(options, field.name) != field.default
    }


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take option groups (dataclasses) as parameters: each field becomes an option of its own.

    A group that is a parameter's default gives the defaults of its options.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[tuple[str, Any, Any]] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            group = groups[parameter.name]
            types = get_type_hints(group, include_extras=True)
            given = parameter.default if isinstance(parameter.default, group) else group()
            parameters += [(field.name, types[field.name], getattr(given, field.name)) for field in fields(group)]
        else:
            parameters.append((parameter.name, hints[parameter.name], parameter.default))

    def collected(**values: Any) -> None:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**made, **values)

    collected.__doc__ = command.__doc__
    collected.__annotations__ = {name: hint for name, hint, _ in parameters}
    collected.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
            for name, hint, default in parameters
        ]
    )
    return collected
