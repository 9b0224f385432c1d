"""The editor that fits what lies on disk: a diffusers folder or a single-file checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from ...diffusers_editor import PREDICTIONS, DiffusersEditor
from ..files import ModelError
from .diffusers_folder import INDEX, read_folder
from .single_file import ENDING, read_file

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def load_editor(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    size: int | None = None,
    prediction: str | None = None,
) -> DiffusersEditor:
    """Stable Diffusion 1.5, 2 or SDXL, or the inpainting version of one, off the disk; never the network.

    Args:
        path: a folder as diffusers saves it, a checkpoint's .safetensors file, or a folder with one such file in it.
        dtype: of the weights; None is float32. SDXL's autoencoder stays float32 instead of float16 where its config
            asks for it.
        device: where the networks go; None leaves them on the CPU.
        size: native picture side in pixels; None takes the model's own, 512 to 1024 px.
        prediction: `epsilon` or `v_prediction` where the model is to be taken otherwise than it says.

    Raises:
        ModelError: nothing there, a model of another kind (named, with where it works), or damaged files.
        TypeError, ValueError: options that mean nothing.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(
            f"dtype must be one of {', '.join(str(known) for known in DTYPES)}, got {dtype!r}; leave it out for float32"
        )
    if prediction is not None and prediction not in PREDICTIONS:
        raise ValueError(
            f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}; leave it out for the model's own"
        )
    place = Path(path)
    if not place.exists():
        raise ModelError(f"{place} does not exist; give a diffusers folder or a checkpoint's {ENDING} file")
    file = _checkpoint_in(place) if place.is_dir() else place
    try:
        parts = (
            read_folder(place, dtype, prediction=prediction)
            if file is None
            else read_file(file, dtype, prediction=prediction)
        )
        return DiffusersEditor(**parts, device=device, size=size)
    except (FileNotFoundError, TypeError) as error:
        raise ModelError(str(error)) from error


def _checkpoint_in(folder: Path) -> Path | None:
    """The one checkpoint in a folder that is no diffusers folder, or None.

    Raises:
        ModelError: several files, of which one has to be chosen.
    """
    if (folder / INDEX).is_file() or (folder / "unet").is_dir():
        return None
    files = sorted(folder.glob(f"*{ENDING}"))
    if len(files) > 1:
        raise ModelError(
            f"{folder} is no diffusers folder and holds {len(files)} {ENDING} files, such as {files[0].name}; "
            "give one of them"
        )
    return files[0] if files else None
