"""Half-open boxes of whole pixels as values: around masks, grown, moved, joined."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, order=True)
class Box:
    """Pixels x0 <= x < x1 and y0 <= y < y1; empty where x1 <= x0 or y1 <= y0."""

    y0: int
    x0: int
    y1: int
    x1: int

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Box:
        """The whole frame of `size` = (H, W)."""
        return cls(0, 0, size[0], size[1])

    @classmethod
    def around(cls, mask: Tensor) -> Box:
        """The tightest box around everything above 0 of a mask [H,W] (float or bool); empty where nothing is."""
        rows = (mask.amax(1) > 0).nonzero()[:, 0]
        if not len(rows):
            return cls(0, 0, 0, 0)
        columns = (mask.amax(0) > 0).nonzero()[:, 0]
        return cls(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)

    @property
    def height(self) -> int:
        """Rows."""
        return max(0, self.y1 - self.y0)

    @property
    def width(self) -> int:
        """Columns."""
        return max(0, self.x1 - self.x0)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def empty(self) -> bool:
        """Whether it holds no pixel."""
        return not (self.height and self.width)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index a tensor [...,H,W] with."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def grown(self, margin: int) -> Box:
        """`margin` px wider on every side; may leave the frame."""
        return Box(self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin)

    def inside(self, size: tuple[int, int]) -> Box:
        """The part of it within a frame of `size` = (H, W)."""
        return self & Box.whole(size)

    def resized(self, size: tuple[int, int], frame: tuple[int, int]) -> Box:
        """A box of `size` = (height, width) about the same middle, moved as little as keeps it within `frame`.

        Raises:
            ValueError: `size` is larger than `frame`.
        """
        if size[0] > frame[0] or size[1] > frame[1]:
            raise ValueError(
                f"size {size[1]}x{size[0]} does not fit a frame of {frame[1]}x{frame[0]}; use a smaller one"
            )
        starts = (
            min(max(0, low + (length - side) // 2), limit - side)
            for low, length, side, limit in zip(
                (self.y0, self.x0), (self.height, self.width), size, frame, strict=True
            )
        )
        top, left = starts
        return Box(top, left, top + size[0], left + size[1])

    def from_corner(self, other: Box) -> Box:
        """The same pixels counted from the upper left corner of `other`."""
        return Box(self.y0 - other.y0, self.x0 - other.x0, self.y1 - other.y0, self.x1 - other.x0)

    def __and__(self, other: Box) -> Box:
        top, left = max(self.y0, other.y0), max(self.x0, other.x0)
        return Box(top, left, max(top, min(self.y1, other.y1)), max(left, min(self.x1, other.x1)))

    def __or__(self, other: Box) -> Box:
        """The smallest box that holds both; an empty one adds nothing."""
        if self.empty or other.empty:
            return other if self.empty else self
        return Box(
            min(self.y0, other.y0), min(self.x0, other.x0), max(self.y1, other.y1), max(self.x1, other.x1)
        )

    def __contains__(self, other: Box) -> bool:
        return other.empty or (self | other) == self

    def __str__(self) -> str:
        return f"{self.width}x{self.height}+{self.x0}+{self.y0}"
