"""Errors that are bugs: one line for the user, the traceback in a file."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from pathlib import Path

from simjax.disk.files import make_folder, write_file
from simjax.errors import SimjaxError, in_one_line, log_traceback


def internal(error: Exception) -> str:
    """What is said of an error that no module expected; its traceback is written below the user's cache, or else a temporary folder."""
    log_traceback(error)
    text = "".join(traceback.format_exception(error))
    for above in (os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", tempfile.gettempdir()):
        file = Path(above) / "simjax" / f"traceback-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        try:
            make_folder(file.parent)
            write_file(file, text)
        except SimjaxError:
            continue
        return f"internal error: {in_one_line(error)}; its traceback is in {file}"
    return f"internal error: {in_one_line(error)}; SIMJAX_TRACEBACK=1 prints its traceback"
