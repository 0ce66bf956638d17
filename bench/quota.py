"""A share of a processor, as Lambda gives by memory, from Linux's control groups; mostly takes root."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# At this size a function has one processor, and below it a share: Lambda's developer guide on memory.
MEMORY_OF_ONE_PROCESSOR = 1769  # MB
_PERIOD = 20_000  # microseconds
_GROUPS = Path("/sys/fs/cgroup")


class NoQuota(Exception):
    """This machine does not let the bench limit the processor."""


@contextmanager
def quota(memory: int) -> Iterator[Path]:
    """Give the file to which a process writes its id, to get no more processor than so many MB give.

    Raises:
        NoQuota: the machine does not let us.
    """
    microseconds = _PERIOD * memory // MEMORY_OF_ONE_PROCESSOR
    old = _GROUPS / "cpu"  # the first version of control groups has a hierarchy for each kind
    group = (old if old.is_dir() else _GROUPS) / f"bench-{os.getpid()}"
    try:
        group.mkdir()
        if old.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(microseconds))
        else:
            (group / "cpu.max").write_text(f"{microseconds} {_PERIOD}")
    except OSError as error:
        raise NoQuota(f"this machine does not let the bench limit the processor: {error}") from None
    try:
        yield group / "cgroup.procs"
    finally:
        group.rmdir()
