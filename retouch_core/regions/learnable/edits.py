"""Edits of boxes, each made once, with their losses; what memory cannot hold is left out and told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .losses import LossesOf, Weights

Edit = Callable[[Tensor, Tensor], Tensor]
"""(IMAGE [1,H,W,3], half-open pixel boxes xyxy long [n,4]) -> IMAGE [n,H,W,3], finished."""
Progress = Callable[[int, int], None]
"""Called with (done, of all) after each edit or step of training."""
BATCH = 8
"""Boxes that the callback is asked for at once."""
PARTS = ("clip", "direction", "structure")


class Edits:
    """Edits of K anchors' M boxes as they are asked for.

    Attributes:
        boxes: long [K,M,4]; losses: `clip`, `direction`, `structure` and `total`, each [K,M], NaN where not edited.
        made: how many boxes were edited; notes: what went wrong, as sentences.
    """

    def __init__(
        self,
        image: Tensor,
        boxes: Tensor,
        edit: Edit,
        losses: LossesOf,
        weights: Weights,
        batch: int = BATCH,
    ) -> None:
        self.image, self.boxes, self.losses_of, self.weights = image, boxes, losses, weights
        self.losses = {name: torch.full(boxes.shape[:2], torch.nan) for name in (*PARTS, "total")}
        self.notes: list[str] = []
        self._edit, self._batch = edit, batch
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._tried: set[tuple[int, ...]] = set()
        self._full = False
        # The caller's mode: a host's networks may want the inference mode that training cannot be in.
        self._inference = torch.is_inference_mode_enabled()

    def within(self, inference: bool) -> Edits:
        """The same, with the callback running in inference mode or not."""
        self._inference = inference
        return self

    @contextmanager
    def as_called(self) -> Iterator[None]:
        """A block in the mode that the caller was in, without gradient."""
        with torch.inference_mode(self._inference), torch.no_grad():
            yield

    @property
    def made(self) -> int:
        return len(self._kept)

    @property
    def done(self) -> Tensor:
        """bool [K,M]: which boxes have an edit with finite losses."""
        return torch.isfinite(self.losses["total"])

    def key(self, anchor: int, size: int) -> tuple[int, ...]:
        return tuple(self.boxes[anchor, size].tolist())

    def picture(self, anchor: int, size: int) -> Tensor:
        """The finished edit IMAGE [1,H,W,3] of a box that is `done`."""
        return self._kept[self.key(anchor, size)]

    def need(self, pairs: list[tuple[int, int]], tell: Callable[[int], None] | None = None) -> None:
        """Edit those of `pairs` (anchor, size) that are missing; boxes that coincide are edited once.

        Calls `tell` with the number of distinct boxes done so far. After one box alone did not fit into memory
        nothing more is edited.

        Raises:
            ValueError: a callback that gives other pictures than it was asked for.
        """
        wanted = [key for key in dict.fromkeys(self.key(*pair) for pair in pairs) if key not in self._tried]
        while wanted and not self._full:
            part = wanted[: self._batch]
            pictures = self._made_of(part)
            if pictures is None:
                self._smaller(len(part))
                continue
            wanted = wanted[len(part) :]
            self._tried.update(part)
            self._keep(part, pictures)
            if tell is not None:
                tell(len(self._tried))

    def _made_of(self, part: list[tuple[int, ...]]) -> Tensor | None:
        """The callback's pictures [n,H,W,3], or None where memory did not suffice."""
        try:
            with self.as_called():
                made = self._edit(self.image, torch.tensor(part))
        except Exception as error:
            if not _out_of_memory(error):
                raise
            return None
        wanted = [len(part), *self.image.shape[1:]]
        if not isinstance(made, Tensor) or list(made.shape) != wanted:
            got = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(
                f"edit gave {got} for {len(part)} boxes of a picture {list(self.image.shape)}; it must give {wanted}"
            )
        return made.to(self.image).clone()

    def _smaller(self, tried: int) -> None:
        if tried > 1:
            self._batch = tried // 2
            return
        self._full = True
        self.notes.append(
            f"memory ran out after {self.made} edits, which are kept; choose fewer anchors or a smaller picture"
        )

    def _keep(self, part: list[tuple[int, ...]], pictures: Tensor) -> None:
        with torch.no_grad():
            parts = self.losses_of(pictures)
            total = self.weights.total(parts)
        for k, key in enumerate(part):
            if not torch.isfinite(total[k]):
                self.notes.append(
                    f"the edit of box {list(key)} has the loss {float(total[k])} and was left out"
                )
                continue
            self._kept[key] = pictures[k : k + 1]
            where = (self.boxes == torch.tensor(key)).all(-1)
            for name in PARTS:
                self.losses[name][where] = float(parts[name][k])
            self.losses["total"][where] = float(total[k])


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
