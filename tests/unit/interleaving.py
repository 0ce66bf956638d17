"""Every interleaving of two operations with one preemption: no missing lock stays unnoticed by chance.

One thread is preempted right before it stores an attribute in the module under test. There, the other thread
runs until it ends, sleeps, or waits for a lock. That is where a missing lock loses an update.
"""

import dis
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, ModuleType, SimpleNamespace
from unittest.mock import patch

from tests.unit.virtual_time import VirtualLock, VirtualTime

_TOOL = 4  # no debugger, no coverage, no profiler
_INSTRUCTION = sys.monitoring.events.INSTRUCTION


@contextmanager
def virtual_locks(module: ModuleType, time: VirtualTime) -> Iterator[None]:
    """Let the objects that the module creates in the block have locks in virtual time."""
    with patch.object(module, "threading", SimpleNamespace(Lock=lambda: VirtualLock(time))):
        yield


def preempted(
    time: VirtualTime, owner: type, first: Callable[[], object], second: Callable[[], object], at: int
) -> bool:
    """Run two operations to their ends; return whether the first one is preempted.

    Args:
        time: of both operations and of their locks.
        owner: the class whose methods store what is shared.
        first: the operation that is preempted.
        second: the operation that preempts it.
        at: the number of the store before which the first one is preempted, from 0.
    """
    stores = -1
    preempted_thread = 0

    def on_instruction(code: CodeType, offset: int) -> None:
        nonlocal stores
        if threading.get_ident() != preempted_thread or code.co_code[offset] != dis.opmap["STORE_ATTR"]:
            return
        stores += 1
        if stores == at:
            time.sleep(0)

    def run_first() -> None:
        nonlocal preempted_thread
        preempted_thread = threading.get_ident()
        first()
        preempted_thread = 0
        ended.append(first)

    def run_second() -> None:
        second()
        ended.append(second)

    ended: list[Callable[[], object]] = []
    with _instructions(owner, on_instruction):
        time.run([run_first, run_second], until=time.now + 60)
    assert len(ended) == 2, "an operation did not end"
    return stores >= at


@contextmanager
def _instructions(owner: type, callback: Callable[[CodeType, int], None]) -> Iterator[None]:
    codes = [function.__code__ for _, function in inspect.getmembers(owner, inspect.isfunction)]
    sys.monitoring.use_tool_id(_TOOL, "interleaving")
    sys.monitoring.register_callback(_TOOL, _INSTRUCTION, callback)
    try:
        for code in codes:
            sys.monitoring.set_local_events(_TOOL, code, _INSTRUCTION)
        yield
    finally:
        for code in codes:
            sys.monitoring.set_local_events(_TOOL, code, 0)
        sys.monitoring.register_callback(_TOOL, _INSTRUCTION, None)
        sys.monitoring.free_tool_id(_TOOL)
