"""The region generation network: which of its M boxes each anchor takes (S01, section 3; methods.md 7.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

REDUCED = 12
"""Channels left of the features before they are pooled."""
POOLED = 8
"""Side of what is pooled of each box."""
HIDDEN, LAST = 8, 4


class RegionNetwork(nn.Module):
    """features [D,h,w] and boxes [K,M,4] -> log-probabilities [K,M].

    Layers as published: 1x1 convolution D->12, ROI pooling 8x8 of every box, and for each anchor 1x1 convolutions
    12M->8->4 with ReLU, linear 256->4, ReLU, linear 4->M, log-softmax. `head` holds what is trained (1779 numbers for
    M=7, 1678 for M=6); `reduce` stays as it was drawn, as published.
    """

    def __init__(self, width: int, sizes: int, seed: int = 0) -> None:
        """Draw the weights for features of D=`width` channels and M=`sizes` boxes from `seed`, torch's own way."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reduce = nn.Conv2d(width, REDUCED, 1).requires_grad_(False)
            self.head = nn.Sequential(
                nn.Conv2d(REDUCED * sizes, HIDDEN, 1),
                nn.ReLU(),
                nn.Conv2d(HIDDEN, LAST, 1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(LAST * POOLED**2, LAST),
                nn.ReLU(),
                nn.Linear(LAST, sizes),
                nn.LogSoftmax(-1),
            )

    def pooled(self, features: Tensor, boxes: Tensor) -> Tensor:
        """features [D,h,w], boxes xyxy [K,M,4] in patch coordinates -> [K,12M,8,8]."""
        from torchvision.ops import roi_align

        # Coordinate i is the middle of patch i; with aligned=True that middle is at i + 0.5.
        rows = boxes.flatten(0, 1).to(features) + 0.5
        found = roi_align(
            self.reduce(features[None]), [rows], (POOLED, POOLED), spatial_scale=1.0, aligned=True
        )
        # [K*M,12,8,8]: an anchor's boxes follow each other, so its channels are theirs, box after box.
        return found.unflatten(0, boxes.shape[:2]).flatten(1, 2)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Log-probabilities [K,M]."""
        logits: Tensor = self.head(self.pooled(features, boxes))
        return logits
