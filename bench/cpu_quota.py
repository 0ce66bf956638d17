"""Limits the CPU share as Lambda does by function size, with Linux control groups. Usually needs root."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# A function of this size has one vCPU (Lambda developer guide, "Configure Lambda function memory").
_MB_PER_CPU = 1769
_PERIOD = 20_000  # microseconds
_CGROUPS = Path("/sys/fs/cgroup")


class QuotaUnavailable(Exception):
    """The benchmark can't limit the CPU share on this machine."""


@contextmanager
def cpu_quota(function_mb: int) -> Iterator[Path]:
    """Create a control group with the CPU share of a function, and yield its `cgroup.procs` file.

    Raises:
        QuotaUnavailable: the control group can't be created.
    """
    quota = _PERIOD * function_mb // _MB_PER_CPU
    version_1 = _CGROUPS / "cpu"
    group = (version_1 if version_1.is_dir() else _CGROUPS) / f"bench-{os.getpid()}"
    try:
        group.mkdir()
        if version_1.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD}")
    except OSError as error:
        raise QuotaUnavailable(f"can't limit the CPU share on this machine: {error}") from None
    try:
        yield group / "cgroup.procs"
    finally:
        group.rmdir()
