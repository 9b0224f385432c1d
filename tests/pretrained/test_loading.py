"""What a library cannot read becomes one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_segmenters import mask2former_processor, oneformer_folder, picture, saved, tiny_mask2former

from retouch_core.models.pretrained.loading import ModelError, load_part
from retouch_core.models.pretrained.opening import class_of


def failing(error: Exception) -> Any:
    class SomeTokenizer:
        @classmethod
        def from_pretrained(cls, *_: Any, **__: Any) -> Any:
            raise error

    return SomeTokenizer


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ImportError(
                "\nSiglipTokenizer requires the protobuf library but it was not found in your environment."
            ),
            r"the SomeTokenizer of SigLIP in .* needs a package that is not here .*; run pip install protobuf$",
        ),
        (ImportError("SiglipTokenizer requires the SentencePiece library"), "run pip install sentencepiece$"),
        (ImportError("libcudart.so"), "needs a package that is not here .*; install what is missing$"),
        (
            ValueError(
                "Due to a serious vulnerability issue in `torch.load`, we now require torch at least v2.6"
            ),
            "is pickled, which transformers reads with torch 2.6 or later alone, but .* run pip install -U torch",
        ),
        (OSError("no such thing"), "cannot be read .*; copy all files of the model's repository there$"),
    ],
)
def test_the_sentence_names_the_cure(tmp_path: Path, error: Exception, said: str) -> None:
    with pytest.raises(ModelError, match=said) as raised:
        load_part(failing(error), tmp_path, "SigLIP")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("backend", ["mask2former", "oneformer"])
def test_a_norm_that_is_never_used_may_be_absent(backend: str, tmp_path: Path) -> None:
    """As in the published files, which older versions of transformers wrote."""
    import torch
    from safetensors.torch import load_file, save_file

    if backend == "oneformer":
        folder = oneformer_folder(tmp_path / "model")
    else:
        folder = saved(tmp_path / "model", tiny_mask2former(), mask2former_processor())
    options = {"score_min": 0.0, "overlap_min": 0.0}
    whole = class_of(backend).from_folder(folder, **options)(picture(50, 70))
    file = folder / "model.safetensors"
    state = load_file(file)
    unused = [name for name in state if ".swin.layernorm." in name]
    save_file({name: value for name, value in state.items() if name not in unused}, file, {"format": "pt"})
    again = class_of(backend).from_folder(folder, **options)(picture(50, 70))
    assert torch.equal(whole[0], again[0]) and torch.equal(whole[1], again[1])
    needed = next(name for name in state if "layernorm" in name.lower() and name not in unused)
    save_file({name: value for name, value in state.items() if name != needed}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights"):
        class_of(backend).from_folder(folder)
