"""Sphinx configuration: MyST pages, the API from docstrings, the command line from the typer app."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from sphinx.domains.python import PyObject
from sphinx.ext.napoleon import GoogleDocstring

import fluidgate

HERE = Path(__file__).parent

project = "fluidgate"
author = copyright = "The fluidgate authors"
version = release = fluidgate.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "figures/*.py"]
html_theme = "furo"
html_title = f"fluidgate {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_style, pygments_dark_style = "friendly", "monokai"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# The packages of the rooms re-export their public names: a page shows what `__all__` lists.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_mock_imports = ["vllm", "torch", "prometheus_client", "ray"]
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
napoleon_google_docstring, napoleon_numpy_docstring = True, False

# Names of other projects are not looked up: the build needs no network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!fluidgate).*"),
    (
        "py:class",
        r"fluidgate\..*\.(F|J|P|Findings|ClassSummary|Machine|EngineLimits|Traffic|Planned|ClassNames|Release|Address|Sample|Rule|Setting"
        r"|Trial|Html|_without_control|_known_dtype|Piece|JsonObject|Defaults|Posterior|LoadErrors)",
    ),  # of no page of their own
]


def _write_command_line_reference() -> None:
    """The list of commands and the options of each, from the app itself, for the pages to include."""
    words = [sys.executable, str(HERE / "command_line.py"), str(HERE / "_build")]
    subprocess.run(words, check=True)


def _skip_bare_fields(_app: Any, _what: str, _name: str, member: Any, skip: bool, _options: Any) -> bool | None:
    """Leave out what Python writes by itself: the fields of a named tuple."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


SHORTER = (
    (
        r"~?(numpy\.)?ndarray\[tuple\[~?(typing\.)?Any, \.\.\.\], ~?(numpy\.)?dtype\[~?(numpy\.)?(\w+)\]\]",
        r"NDArray[\5]",
    ),
    (r"\S*_Buffer \| .*?_NestedSequence\[complex \| bytes \| str\]", "ArrayLike"),
    (r"Annotated\[(\w+), FieldInfo\(.*?\]\)\]", r"\1"),
    (r"<factory>", "..."),
)
"""Types as the source writes them, for what Python makes of them."""


def _shorten(text: str | None) -> str | None:
    for long, short in SHORTER:
        text = re.sub(long, short, text or "")
    return text or None


def _shorten_signature(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    return _shorten(signature), _shorten(returns)


def _attributes(docstring: GoogleDocstring, _section: str) -> list[str]:
    """Attributes as a list; one line may describe several, as it may for parameters."""
    return docstring._format_docutils_params(docstring._consume_fields(multiple=True), field_role="ivar")


def _property(docstring: GoogleDocstring) -> list[str]:
    """A property's docstring as it is: what stands before a colon is no type."""
    return docstring._consume_to_end()


GoogleDocstring._parse_attributes_section = _attributes
GoogleDocstring._parse_attribute_docstring = _property
for field in PyObject.doc_field_types:
    if field.name == "variable":
        field.label = "Attributes"


def setup(app: Any) -> None:
    """Write what is generated, and connect what tidies the signatures."""
    _write_command_line_reference()
    app.connect("autodoc-skip-member", _skip_bare_fields)
    app.connect("autodoc-process-signature", _shorten_signature)
