"""Text Retouch for ComfyUI: change part of a picture by saying it. The host calls `comfy_entrypoint`."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The pack's nodes, imported only when the host asks for them."""
    from .nodes import TextRetouch

    return TextRetouch()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
