"""The `jaxrnn` command, called within the test's own process, and what it must leave behind."""

import contextlib
import io
import json
import sys
from pathlib import Path
from unittest import mock

import h5py

from jaxrnn import cli


def jaxrnn(*arguments: object) -> tuple[int, str, str]:
    """Returns the exit code, output and messages of `jaxrnn <arguments>`."""
    output, messages = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        mock.patch.object(sys, "argv", ["jaxrnn", *map(str, arguments)]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(messages),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return code, output.getvalue(), messages.getvalue()


def refused(*arguments: object) -> str:
    """Returns the one message with which `jaxrnn <arguments>` ends, which must be the user's to mend."""
    code, output, messages = jaxrnn(*arguments)
    assert (code, output) == (2, ""), messages
    assert messages.startswith("jaxrnn: ")
    assert "Traceback" not in messages
    return messages


def assert_whole(folder: Path) -> None:
    """Asserts that no file below `folder` is half-written."""
    for path in folder.rglob("*"):
        assert not path.name.startswith(".") and not path.name.endswith(".part"), path
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".h5":
            h5py.File(path).close()
