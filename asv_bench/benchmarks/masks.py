"""Masks by rule: against FlexAttention, and what they cost."""

from __future__ import annotations

from .common import Case
from .rules import against_flex, against_ours
from .sides import Sides, Start, kept, lacking

MASKS = ["causal", "window", "documents"]
LONG = Case("attention", 8192, 8192, 64, lead=(1, 1))


class AgainstFlexAttention(Sides):
    """8 heads 2048², d 64, float32; each side in its own process, compiled before."""

    params = (MASKS,)
    param_names = ("mask",)
    timeout = 600

    def sides(self, mask: str) -> tuple[Start, Start]:  # noqa: D102
        return against_flex(mask)

    @kept("time / FlexAttention's time")
    def track_ratio(self, mask: str) -> float:
        """Our time over that of ``torch.compile(flex_attention)``."""
        return self.compared().ratio


class Cost(Sides):
    """A mask object over the option that means the same, 8192², d 64."""

    def sides(self) -> tuple[Start, Start]:  # noqa: D102
        return against_ours(LONG, "window", "window_size")

    @kept("time / time with window_size")
    def track_window(self) -> float:
        """``masks.sliding_window(256, 0)`` over ``window_size=(256, 0)``."""
        return self.compared().ratio


class Skipping(Sides):
    """Blocks of scores that a mask hides are not computed, 8192², d 64."""

    params = (MASKS,)
    param_names = ("mask",)

    def sides(self, mask: str) -> tuple[Start, Start]:  # noqa: D102
        return against_ours(LONG, mask, "nothing")

    @kept("time / time without a mask")
    def track_ratio(self, mask: str) -> float:
        """Time with the mask over the time without."""
        return self.compared().ratio


class Blocks:
    """What it takes to find out which blocks are empty, full and partial."""

    version = "1"

    def setup(self) -> None:
        """Make a mask of documents."""
        import numpy as np

        with lacking():
            from numbattn import masks

            ids = np.arange(65_536) // 256
            self.mask = masks.document(ids, ids) & masks.causal()
            self.time_sparsity()

    def time_sparsity(self) -> None:
        """The share of 65,536² scores that is hidden, without forming them."""
        self.mask.sparsity(65_536, 65_536)
