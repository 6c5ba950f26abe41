"""The readers as users see them: what `jaxrnn readers` prints, and their tables in config/README.md.

All of it comes from the readers' own docstrings, examples and options: it cannot say anything else than they do.
"""

import inspect
import json
import re
from collections.abc import Iterator
from textwrap import indent, wrap
from typing import Any

from jaxrnn.config import in_words
from jaxrnn.readers import READERS, Reader, reader_class

WIDTH = 100


def listing() -> str:
    """Returns each reader's name, what it reads, and its example: plain text."""
    entries = []
    for name in READERS:
        reader = reader_class(name)
        summary = "\n".join(wrap(_summary(reader), WIDTH - 4))
        entries.append(f"{name}\n{indent(summary, '    ')}\n\n{indent(reader.EXAMPLE.strip(), '    ')}\n")
    return "\n".join(entries) + "\n`jaxrnn readers NAME` lists the options of one. docs/readers.md: one of your own.\n"


def described(name: str) -> str:
    """Returns all about one reader, of ours or `module:Class`: plain text; raises JaxrnnError where there is none."""
    reader = reader_class(name)
    lines = [name, "", _docstring(reader), "", reader.EXAMPLE.strip(), "", "data.options:"]
    for key, values, default, meaning in _options(reader):
        lines.append(f"  {key}: {_plain(values)}; {'required' if default is None else f'default {default}'}")
        lines += wrap(_plain(meaning), WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines) + ("" if reader.Options.model_fields else " none") + "\n"


def tables() -> str:
    """Returns the section on readers of config/README.md, in Markdown."""
    summary = [_row([f"[`{name}`](#{name})", _summary(reader_class(name))]) for name in READERS]
    sections = ["\n".join(["### Readers", "", "| `data.reader` | reads |", "| --- | --- |", *summary])]
    for name in READERS:
        reader = reader_class(name)
        rows = [
            _row([f"`{key}`", values, "(required)" if default is None else f"`{default}`", meaning])
            for key, values, default, meaning in _options(reader)
        ]
        head = ["| key of `data.options` | values | default | meaning |", "| --- | --- | --- | --- |"]
        options = "\n".join([*head, *rows]) if rows else "No options."
        example = f"```yaml\n{reader.EXAMPLE.strip()}\n```"
        sections.append("\n\n".join([f"#### `{name}`", _docstring(reader), example, options]))
    return "\n\n".join(sections) + "\n"


def _docstring(reader: type[Reader]) -> str:
    return inspect.cleandoc(reader.__doc__ or "")


def _summary(reader: type[Reader]) -> str:
    """Returns the first paragraph of a reader's docstring, as one line."""
    return " ".join(_docstring(reader).partition("\n\n")[0].split())


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Returns Markdown as plain text: without the marks around code."""
    return re.sub(r"`([^`]*)`", r"\1", text)


def _options(reader: type[Reader]) -> Iterator[tuple[str, str, str | None, str]]:
    """Yields key, values in words, default (None where the key is required) and meaning of each option."""
    schema = reader.Options.model_json_schema()
    definitions = schema.get("$defs", {})

    def keys(described: dict[str, Any], before: str) -> Iterator[tuple[str, str, str | None, str]]:
        for key, entry in described.get("properties", {}).items():
            required = key in described.get("required", ())
            default = entry.get("default")
            shown = default if isinstance(default, str) and default else json.dumps(default, ensure_ascii=False)
            meaning = " ".join(entry.get("description", "").split())
            yield f"{before}{key}", in_words(entry), None if required else shown, meaning
            for inner in _references(entry):
                yield from keys(definitions[inner], f"{before}{key}.")

    yield from keys(schema, "")


def _references(entry: dict[str, Any]) -> list[str]:
    """Returns the names of the mappings with keys of their own that a key may hold, or its entries may be."""
    inner = [entry, *entry.get("anyOf", ()), entry.get("items", {}), entry.get("additionalProperties", {})]
    return [one["$ref"].rpartition("/")[2] for one in inner if isinstance(one, dict) and "$ref" in one]
