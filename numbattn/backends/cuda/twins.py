"""What the instructions of `ptx` do, in Python, for the simulator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from greenlet import getcurrent

from .simulator import WARP_SIZE, exchange, meet
from .tiles import vector


def _inside(array: np.ndarray, first: int, count: int) -> None:
    if not 0 <= first <= len(array) - count:
        raise IndexError(f"elements {first} to {first + count} of {len(array)}")


def read(array: np.ndarray, at: int) -> Any:
    """See `ptx.read`."""
    if not 0 <= at < len(array):
        raise IndexError(f"element {at} of {len(array)}")
    return array[at]


def write(array: np.ndarray, at: int, value: Any) -> None:
    """See `ptx.write`."""
    if not 0 <= at < len(array):
        raise IndexError(f"element {at} of {len(array)}")
    array[at] = value


def copy16(
    target: np.ndarray, at: int, source: np.ndarray, start: int, count: int
) -> None:
    """See `ptx.copy16`; more bytes at a time than there, for speed."""
    _copy(target, at, source, start, count, vector(target.dtype))


def copier(width: int) -> Any:
    """See `ptx.copier`."""

    def copy(target: Any, at: int, source: Any, start: int, count: int) -> None:
        _copy(target, at, source, start, count, width)

    return copy


def _copy(
    target: np.ndarray, at: int, source: np.ndarray, start: int, count: int, width: int
) -> None:
    """Nothing arrives before the thread has waited for it."""
    _inside(target, at, width)
    if at * target.itemsize % 16:
        raise ValueError(f"a copy to element {at}, which is not aligned")
    if count:
        _inside(source, start, count)
        if (source.__array_interface__["data"][0] + start * source.itemsize) % 16:
            raise ValueError(f"a copy from element {start}, which is not aligned")

    getcurrent().copies[-1].append((target, at, source, start, count, width))


def aligned16(array: np.ndarray, at: int) -> bool:
    """See `ptx.aligned16`."""
    begin = array.__array_interface__["data"][0]
    return bool((begin + at * array.itemsize) % 16 == 0)


def copy_commit() -> None:
    """See `ptx.copy_commit`."""
    getcurrent().copies.append([])


def copy_wait() -> None:
    """See `ptx.copy_wait`."""
    groups = getcurrent().copies
    for group in groups[:-1]:
        for target, at, source, start, count, width in group:
            target[at : at + count] = source[start : start + count]
            target[at + count : at + width] = 0
    del groups[:-1]


def shuffle_xor(value: Any, mask: int) -> Any:
    """See `ptx.shuffle_xor`."""
    return exchange(value)[getcurrent().lane ^ mask]


def thread() -> int:
    """See `ptx.thread`."""
    return int(getcurrent().number)


def opaque(x: int) -> int:
    """See `ptx.opaque`."""
    return x


def sync_warp() -> None:
    """See `ptx.sync_warp`."""
    exchange(None)


def onward(index: int, step: int) -> int:
    """See `ptx.onward`."""
    return index + step


def greatest(array: np.ndarray, at: int, step: int, count: int, least: Any) -> Any:
    """See `ptx.greatest`."""
    _inside(array, at, (count - 1) * step + 1)
    return np.fmax.reduce(array[at : at + (count - 1) * step + 1 : step], initial=least)


def exponentials(
    array: np.ndarray, at: int, step: int, count: int, base: Any, total: Any
) -> Any:
    """See `ptx.exponentials`."""
    _inside(array, at, (count - 1) * step + 1)
    run = array[at : at + (count - 1) * step + 1 : step]
    np.exp(run - base, out=run)
    return total + run.sum()


def exp(x: Any) -> Any:
    """See `ptx.exp`."""
    return np.exp(x)


def log(x: Any) -> Any:
    """See `ptx.log`."""
    return np.log(x)


def tanh(x: Any) -> Any:
    """See `ptx.tanh`."""
    return np.tanh(x)


def finite(x: Any) -> bool:
    """See `ptx.finite`."""
    return math.isfinite(x)


class Tile:
    """A tile of every lane of a warp, element after element."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays
        self.values = np.ascontiguousarray(np.stack(arrays, axis=1))
        self.changed = False

    def give_back(self) -> None:
        if self.changed:
            for lane, array in enumerate(self.arrays):
                array[:] = self.values[:, lane]


_LANE = np.arange(WARP_SIZE)
_GROUP, _QUAD = _LANE >> 2, _LANE & 3


class Lanes:
    """What `instructions.Code` writes, done for the 32 lanes of a warp at once."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    iadd = fadd = staticmethod(np.add)
    imul = fmul = staticmethod(np.multiply)
    fsub = staticmethod(np.subtract)
    ixor = staticmethod(np.bitwise_xor)
    bit = staticmethod(lambda x, mask: (x & mask) != 0)
    below = staticmethod(np.less)
    same = staticmethod(np.equal)
    both = staticmethod(np.logical_and)
    choose = staticmethod(np.where)
    fmax = staticmethod(np.fmax)
    real = staticmethod(np.float32)
    exp = staticmethod(np.exp)
    inverse = staticmethod(np.reciprocal)
    fma = staticmethod(lambda x, y, z: x * y + z)

    def number(self, like: Any, value: int) -> int:
        return value

    def when(self, condition: Any, act: Any) -> None:
        if np.any(condition) != np.all(condition):
            raise RuntimeError("a branch that lanes of one warp take differently")
        if np.all(condition):
            act()

    def shuffle(self, x: Any, mask: int) -> Any:
        return x[_LANE ^ mask]

    def get(self, tile: Tile, index: int) -> Any:
        return tile.values[index].copy()

    def set(self, tile: Tile, index: int, value: Any) -> None:
        tile.values[index] = value
        tile.changed = True

    def load(self, array: np.ndarray, at: Any, more: int = 0) -> Any:
        place = at + more
        if np.min(place) < 0 or np.max(place) >= len(array):
            raise IndexError(f"elements {place} of {len(array)}")
        return array[place]

    def load_shared(self, array: np.ndarray, at: Any, more: int = 0) -> Any:
        banks = (at + more) * array.itemsize % 128 // 4
        if len(set(banks)) < WARP_SIZE:
            raise RuntimeError(f"conflicts of banks: {banks}")
        return self.load(array, at, more)

    def store(self, array: np.ndarray, at: Any, more: int, value: Any) -> None:
        place = at + more
        if np.min(place) < 0 or np.max(place) >= len(array):
            raise IndexError(f"elements {place} of {len(array)}")
        array[place] = value

    def store_vector(self, array: np.ndarray, at: Any, values: list[Any]) -> None:
        rows = np.stack(values, axis=1).view(array.dtype)
        width = rows.shape[1]
        if np.min(at) < 0 or np.max(at) + width > len(array):
            raise IndexError(f"elements {at} of {len(array)}")
        begin = array.__array_interface__["data"][0]
        if np.any((begin + at * array.itemsize) % (width * array.itemsize)):
            raise ValueError(f"vectors that are not aligned: {at}")
        array[at[:, None] + np.arange(width)] = rows

    def fetch(self, array: np.ndarray, at: Any, inside: Any) -> Any:
        if not np.any(inside):
            return np.zeros(WARP_SIZE, np.uint32)
        found = self.load(array, np.where(inside, at, at[inside][0]))
        found = found.view(np.uint32) if self.kind == "tf32" else found
        return np.where(inside, found, 0).astype(np.uint32)

    def join(self, low: Any, high: Any) -> Any:
        return low.astype(np.uint32) | (high.astype(np.uint32) << np.uint32(16))

    def pack(self, low: Any, high: Any) -> Any:
        return self.join(_narrowed(low, self.kind), _narrowed(high, self.kind))

    def halves(self, packed: Any) -> list[Any]:
        return list(self.numbers(packed).T)

    def rounded(self, x: Any) -> Any:
        bits = np.ascontiguousarray(x).view(np.uint32)
        tf32 = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
        return np.where(np.isfinite(bits.view(np.float32)), tf32, bits)

    def matrices(
        self, shared: np.ndarray, at: Any, more: int, transposed: bool
    ) -> list[Any]:
        place = at + more
        width = 16 // shared.itemsize
        if np.min(place) < 0 or np.max(place) + width > len(shared):
            raise IndexError(f"elements {place} of {len(shared)}")
        if np.any(place % width):
            raise ValueError(f"rows that are not aligned: {place}")
        banks = np.sort((place // width % 8).reshape(4, 8), axis=1)
        if np.any(banks != np.arange(8)):
            raise RuntimeError(f"conflicts of banks: {place}")
        rows = shared[place[:, None] + np.arange(width)]
        if transposed:
            if width != 8:
                raise TypeError("only halves are transposed")
            rows = rows.reshape(4, 8, 8).swapaxes(1, 2).reshape(32, 8)
        words = np.ascontiguousarray(rows).view(np.uint32).reshape(4, 32)
        return [words[i] for i in range(4)]

    def numbers(self, register: Any) -> Any:
        """The float32 values of a register: two halves, or one; (32, 2) or (32, 1)."""
        if self.kind == "tf32":
            if np.any(register & np.uint32(0x1FFF) & ~_beyond(register)):
                raise ValueError("an operand that is not rounded to TF32")
            return register.view(np.float32)[:, None]
        halves = np.stack([register & 0xFFFF, register >> 16], axis=1)
        if self.kind == "float16":
            return halves.astype(np.uint16).view(np.float16).astype(np.float32)
        return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)

    def mma(self, a: Any, b: Any, c: Any) -> list[Any]:
        each = 1 if self.kind == "tf32" else 2
        depth = 8 * each
        left = np.empty((16, depth), np.float32)
        right = np.empty((depth, 8), np.float32)
        for r in range(4):
            numbers = self.numbers(np.asarray(a[r], np.uint32))
            for e in range(each):
                column = each * _QUAD + e + depth // 2 * (r >> 1)
                left[_GROUP + 8 * (r & 1), column] = numbers[:, e]
        for r in range(2):
            numbers = self.numbers(np.asarray(b[r], np.uint32))
            for e in range(each):
                right[each * _QUAD + e + depth // 2 * r, _GROUP] = numbers[:, e]
        product = left @ right
        return [
            c[2 * h + e] + product[_GROUP + 8 * h, 2 * _QUAD + e]
            for h in range(2)
            for e in range(2)
        ]


def _beyond(register: Any) -> Any:
    """All bits where a number is infinite or NaN, which is not rounded."""
    return np.where(np.isfinite(register.view(np.float32)), 0, 0xFFFFFFFF).astype(
        np.uint32
    )


def _narrowed(x: Any, kind: str) -> Any:
    """The bits of a float32, rounded to a half."""
    x = np.asarray(x, np.float32)
    if kind == "float16":
        return x.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(x.shape)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    found = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    return np.where(np.isnan(x), 0x7FFF, found).astype(np.uint16)


def narrowing(kind: str) -> Any:
    """See `ptx.narrowing`."""
    return lambda x: _narrowed(x, kind)


def widening(kind: str) -> Any:
    """See `ptx.widening`."""

    def widen(x: Any) -> Any:
        if kind == "float16":
            return np.float32(np.uint16(x).view(np.float16))
        return (np.uint32(x) << np.uint32(16)).view(np.float32)

    return widen


def operation(kinds: str, kind: str, emit: Any) -> Any:
    """See `instructions.operation`: the lanes meet, and one does it for all."""

    def act(brought: list[Any]) -> None:
        lanes = Lanes(kind)
        values: list[Any] = []
        tiles: list[Tile] = []
        for letter, given in zip(kinds, zip(*brought, strict=True), strict=True):
            if letter == "t":
                tiles.append(Tile(list(given)))
                values.append(tiles[-1])
            elif letter == "a":
                values.append(given[0])
            else:
                dtype = {"i": np.int32, "l": np.int64, "r": np.float32}[letter]
                values.append(np.array(given, dtype))
        emit(lanes, *values)
        for tile in tiles:
            tile.give_back()

    def twin(*given: Any) -> None:
        meet(act, given, act)

    return twin
