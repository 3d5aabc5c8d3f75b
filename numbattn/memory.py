"""Sizes in bytes: reading them, and refusing a call before it takes too much."""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .errors import MemoryLimitError, OptionError, shown

UNGUARDED_BYTES = 64 * 1024**2
"""Below this, the free memory of the machine is not looked up."""

_ADVISED = 0.9  # of the free bytes: others take some meanwhile

_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([kmgtp]?i?b)?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_ALLOWED = 'give bytes as an int, or text like "512 MiB" or "2 GB"'


def parse_bytes(value: object, name: str = "max_memory") -> int:
    """Read a number of bytes.

    Parameters
    ----------
    value : int, float or str
        Bytes, or text with a unit: "2 GB" is 2 * 10**9, "2 GiB" is 2 * 2**30.
    name : str
        What to call it in a complaint.

    Returns
    -------
    int
        Bytes, 1 or more.

    Raises
    ------
    OptionError
        Anything else.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise OptionError(f"{name} is {shown(value)}, not a size; {_ALLOWED}")
        unit = (match[2] or "B").lower()
        base = 1024 if "i" in unit else 1000
        size = float(match[1]) * base ** _POWER[unit.rstrip("b").rstrip("i")]
        # an exact integer stays exact, also above 2**53
        if match[1].isdigit() and unit == "b" and size < float("inf"):
            size = int(match[1])
    elif isinstance(value, numbers.Real) and not isinstance(
        value, (bool, np.timedelta64)
    ):
        try:
            size = value if isinstance(value, numbers.Integral) else float(value)
        except OverflowError:  # a fraction beyond all floats
            size = float("inf")
    else:
        raise OptionError(f"{name} is {shown(value)}; {_ALLOWED}")
    if not 1 <= size < float("inf"):
        raise OptionError(
            f"{name} is {shown(value)}; it has to be a finite number, 1 byte or more"
        )
    return int(size)


def show(size: int) -> str:
    """Return a size for people: "1.5 GiB"."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} PiB"


def available_bytes() -> int:
    """Return what can still be allocated: of the machine, or of this cgroup."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for folder, limit, used in _cgroups():
        room = _cgroup_room(folder, limit, used)
        if room is not None:
            free = min(free, room)
    return free


@lru_cache(maxsize=1)
def _cgroups() -> list[tuple[Path, str, str]]:
    """Return the memory groups of this process: folder, file of limit, file of use."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit, used = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = Path("/sys/fs/cgroup/memory")
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # every parent limits too; inside a container the root itself is ours
        folder = root / path.lstrip("/")
        found += [
            (each, limit, used)
            for each in (folder, *folder.parents)
            if each.is_relative_to(root) and (each / limit).is_file()
        ]
    return found


def _cgroup_room(folder: Path, limit: str, used: str) -> int | None:
    try:
        allowed = (folder / limit).read_text().strip()
        if allowed == "max":
            return None
        taken = int((folder / used).read_text())
        # pages of files count as used, but give way when memory is asked for
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, amount = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                taken -= int(amount)
                break
        return max(0, int(allowed) - taken)
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class MemoryEstimate:
    """The bytes that a call allocates, by what they are for; ``print`` it.

    Parameters
    ----------
    operation : str
        What is called.
    shape : tuple of int
        Of the result.
    backend : str
        By name.
    result : int
        0 where the caller gives `out`, and for blocks.
    lse : int
        The log-sum-exp, where it is returned.
    blocks : int
        What is computed piece by piece: for `iter_scores`, half precision, streams.
    workspace : int
        What the backend needs meanwhile.
    copies : int
        Inputs in another dtype or layout, or that `out` overlaps.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> query, key = np.ones((100, 4)), np.ones((200, 4))
    >>> found = numbattn.estimate_memory(query, key, operation="scores")
    >>> found.result, found.total >= found.result
    (160000, True)
    """

    operation: str
    shape: tuple[int, ...]
    backend: str
    result: int
    lse: int
    blocks: int
    workspace: int
    copies: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.result + self.lse + self.blocks + self.workspace + self.copies

    @property
    def parts(self) -> dict[str, int]:
        """What takes any bytes, by its name."""
        found = {
            "result": self.result,
            "log-sum-exp": self.lse,
            "blocks": self.blocks,
            "workspace": self.workspace,
            "copies of inputs": self.copies,
        }
        return {name: size for name, size in found.items() if size}

    def __str__(self) -> str:
        """Return it as lines of text."""
        width = max(map(len, self.parts), default=0)
        lines = [
            f"{self.operation} of shape {self.shape} on backend {self.backend!r}: "
            f"{show(self.total)}"
        ]
        lines += [f"  {name:<{width}}  {show(n)}" for name, n in self.parts.items()]
        return "\n".join(lines)


def require(
    found: MemoryEstimate, limit: int | None, advice: Callable[[int], str]
) -> None:
    """Refuse a call that would take too much.

    Parameters
    ----------
    found : MemoryEstimate
        What the call is going to allocate.
    limit : int or None
        `max_memory` of the call, None for none.
    advice : callable
        Says what would fit into a number of bytes.

    Raises
    ------
    MemoryLimitError
        More than `limit`, or, from 64 MiB, more than the machine has free.
    """
    wanted = found.total
    limited = limit is not None and wanted > limit
    if not limited and wanted < UNGUARDED_BYTES:
        return
    free = available_bytes()
    if not limited and wanted <= free:
        return
    room = int(free * _ADVISED)
    allowed = ""
    if limit is not None and limited:
        room = min(room, limit)
        allowed = f"max_memory allows {limit} ({show(limit)}), and "
    raise _too_much(
        found, f"{allowed}{free} ({show(free)}) are free. {advice(room)}", free
    )


def require_within(found: MemoryEstimate, limit: int) -> None:
    """Refuse a call on a device that would take more there than its `max_memory`.

    What is free there only the backend knows: libraries keep memory for later.

    Raises
    ------
    MemoryLimitError
        More than `limit`.
    """
    if found.total > limit:
        why = (
            f"max_memory allows {limit} ({show(limit)}) on the device. Take fewer "
            "queries at a time, or give out="
        )
        raise _too_much(found, why, limit)


def _too_much(found: MemoryEstimate, why: str, free: int) -> MemoryLimitError:
    wanted = found.total
    parts = ", ".join(f"{name} {show(size)}" for name, size in found.parts.items())
    error = MemoryLimitError(
        f"{found.operation} of shape {found.shape} on {found.backend!r} needs {wanted} "
        f"bytes ({show(wanted)}: {parts}); {why}"
    )
    error.wanted, error.free = wanted, free
    return error
