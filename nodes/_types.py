"""The wire types that are ours, and how schemas are written for hosts of different ages."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

Regions = io.Custom("RETOUCH_REGIONS")
Segmenter = io.Custom("RETOUCH_SEGMENTER")
Scorer = io.Custom("RETOUCH_SCORER")
Referrer = io.Custom("RETOUCH_REFERRER")
Guidance = io.Custom("RETOUCH_GUIDANCE")
Pruning = io.Custom("RETOUCH_PRUNING")
Crop = io.Custom("RETOUCH_CROP")
Attention = io.Custom("RETOUCH_ATTENTION")
Perceptual = io.Custom("RETOUCH_PERCEPTUAL")

CATEGORY = "Text Retouch"

_KNOWN = {field.name for field in dataclasses.fields(io.Schema)}


def schema(**fields: Any) -> io.Schema:
    """An `io.Schema` in our category, without the fields that an older host does not have yet."""
    fields.setdefault("category", CATEGORY)
    return io.Schema(**{name: value for name, value in fields.items() if name in _KNOWN})
