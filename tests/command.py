"""The command line, run within this process: starting Python anew takes longer than most of what it does here."""

import contextlib
import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

from compress.cli import main


def compress(*words: object, folder: Path) -> subprocess.CompletedProcess:
    """What `compress` followed by `words` gives when it is called in `folder`."""
    argv = ["compress", *map(str, words)]
    out, err = io.StringIO(), io.StringIO()
    code, disabled = 0, logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(mock.patch.object(sys, "argv", argv))
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            logging.disable(disabled)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())
