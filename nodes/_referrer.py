"""The embedded referrer inside a patcher of the host, which loads, moves and unloads it as it does its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..retouch_core.models.referrer import EmbeddedReferrer, load_network
from ..retouch_core.models.referring_network import ReferringNetwork


class HostReferrer(EmbeddedReferrer):
    """A `models.protocols.Referrer`; the bundle is read when the first phrase is asked, and refused then if it lacks it.

    Attributes:
        patcher: the host's patcher of the network, None before that.
    """

    def __init__(self, bundle: Path, scorer: Any) -> None:
        super().__init__(self._ready, scorer)
        self.bundle = bundle
        self.patcher: Any = None

    def _ready(self) -> ReferringNetwork:
        import comfy.model_management

        from ._patchers import whole_patcher

        if self.patcher is None:
            with torch.inference_mode(False):
                network = load_network(self.bundle)
            self.patcher = whole_patcher(network)
        comfy.model_management.load_models_gpu([self.patcher])
        loaded: ReferringNetwork = self.patcher.model
        return loaded
