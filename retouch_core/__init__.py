"""Change part of a picture by saying it: find a region by text, edit it, keep every other pixel, pick the best."""

from __future__ import annotations

__version__ = "0.1.0"
