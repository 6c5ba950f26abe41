"""How templates become pages: escaped, and with the filters that they use."""

import base64
import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape


def environment() -> jinja2.Environment:
    """Returns what renders a template of this folder; all text is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["keys"] = _with_keys
    made.filters["thousands"] = lambda number: f"{number:,}"
    made.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return made


def printable(value: Any) -> Any:
    """Returns text without control and formatting characters: a name must not turn the line that it stands in."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    hidden = (c for c in set(value) if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf"))
    return value.translate({ord(c): "\N{REPLACEMENT CHARACTER}" for c in hidden})


def _with_keys(text: str) -> Markup:
    """Returns a sentence with `keys of the experiment file` as code."""
    return Markup(re.sub(r"`([\w.: -]+)`", r"<code>\1</code>", str(escape(printable(text)))))
