"""A single file of weights, whatever trained it: checked first, and read without running anything in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import ModelError, check_pickle, check_safetensors, said

SAFE_ENDING = ".safetensors"
TABLE = "state_dict"
"""Where trainers put the weights among other things."""
PARALLEL = "module."
"""What training on several devices puts before every name."""
SCRIPT = "/constants.pkl"
"""An entry of every TorchScript archive, and of no plain one."""


def state_of(path: Path) -> dict[str, Tensor]:
    """Weights by name, on the CPU, as they are stored.

    Raises:
        ModelError: a file that is missing, damaged, a program instead of a table of weights, or without any.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist; give the file of the weights")
    safe = path.suffix == SAFE_ENDING
    (check_safetensors if safe else check_pickle)(path)
    if not safe and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(SCRIPT) for name in archive.namelist()):
                raise ModelError(
                    f"{path} is a TorchScript archive, which carries code; take the same weights as safetensors"
                )
    try:
        stored: Any
        if safe:
            from safetensors.torch import load_file

            stored = load_file(path, device="cpu")
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        table = stored.get(TABLE, stored)
        state = {str(name).removeprefix(PARALLEL): value for name, value in table.items()}
        if not state or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it holds no table of weights")
    except MemoryError:
        raise
    except Exception as error:
        raise ModelError(f"{path} cannot be read ({said(error)}); copy or download it again") from error
    return state
