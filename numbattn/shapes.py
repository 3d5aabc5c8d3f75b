"""Leading axes: how those of query, key and value broadcast, and the heads."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .errors import ShapeError


def differ(
    one: str, first: NDArray[Any], other: str, second: NDArray[Any], where: str
) -> ShapeError:
    """Return the complaint that two arguments do not agree in an axis."""
    return ShapeError(
        f"{one} and {other} differ in {where}: {one} has shape {first.shape}, {other} "
        f"has {second.shape}"
    )


def leading(named: list[tuple[str, NDArray[Any]]]) -> tuple[int, ...]:
    """Return the broadcast leading axes of query, key and value; heads are last."""
    for name, array in named:
        if array.ndim < 2:
            axes = {"query": "n, d_k", "key": "m, d_k", "value": "m, d_v"}[name]
            hint = f": for one row pass {name}[None, :]" if array.ndim == 1 else ""
            raise ShapeError(
                f"{name} has shape {array.shape}; it needs two axes or more, (..., "
                f"{axes}){hint}"
            )
    first = named[0][1].shape[:-2]
    if all(array.shape[:-2] == first for _, array in named):
        return first
    count = max(array.ndim for _, array in named) - 2
    padded = [(1,) * (count + 2 - a.ndim) + a.shape[:-2] for _, a in named]
    shapes = ", ".join(f"{name} has shape {array.shape}" for name, array in named)
    batch = []
    for axis, sizes in enumerate(zip(*(p[:-1] for p in padded), strict=True)):
        wide = set(sizes) - {1}
        if len(wide) > 1:
            raise ShapeError(
                f"the leading axes differ in axis {axis - count - 2}: {shapes}. Axes "
                "before the heads axis (axis -3) have to be equal or 1"
            )
        batch.append(wide.pop() if wide else 1)
    return (*batch, _heads([p[-1] for p in padded], shapes))


def _heads(sizes: list[int], shapes: str) -> int:
    """Return the heads of the result: those of the query, unless it has 1."""
    of_query, *others = sizes
    wide = set(others) - {1}
    if len(wide) > 1:
        raise ShapeError(
            f"key and value differ in heads (axis -3): {shapes}. They have to have "
            "equally many, or one of them 1"
        )
    of_key = wide.pop() if wide else 1
    if of_query in (1, of_key):
        return of_key
    if of_key == 0 or of_query % of_key:
        raise ShapeError(
            f"the heads (axis -3) do not fit: {shapes}. The query's {of_query} heads "
            f"have to be as many as the key's {of_key}, or a multiple of them, or one "
            "of the two is 1. The first axis of a 3-D array is heads, not batch: a "
            "batch without heads is x[:, None]"
        )
    return of_query
