"""The shipped models: complete, readable by plain library classes, refused when damaged, and good for the main job."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retouch_core.demo import PICTURES, read_cases
from retouch_core.models.embedded import FOLDER, MANIFEST, WeightsError, check_bundle, load_embedded
from retouch_core.pictures import read_picture
from retouch_core.pipeline import Retoucher

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def retoucher() -> Retoucher:
    return Retoucher.embedded()


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "embedded"
    shutil.copytree(FOLDER, folder)
    yield folder


def test_bundle_is_whole_and_small() -> None:
    check_bundle()
    size = sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file())
    assert size <= 30e6
    assert not list(FOLDER.rglob("*.bin")) and not list(FOLDER.rglob("*.pt"))
    from safetensors.torch import load_file

    for path in FOLDER.rglob("*.safetensors"):
        kinds = {t.dtype for t in load_file(path).values() if t.is_floating_point()}
        assert kinds == {torch.float16}, path


def test_plain_classes_load_it() -> None:
    from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPModel

    vae = AutoencoderTiny.from_pretrained(FOLDER / "vae")
    unet = UNet2DConditionModel.from_pretrained(FOLDER / "unet_inpaint")
    clip = CLIPModel.from_pretrained(FOLDER / "clip")
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "clip")
    scheduler = DDIMScheduler.from_pretrained(FOLDER / "scheduler")
    assert (
        unet.config.in_channels == 9
        and unet.config.cross_attention_dim == clip.config.text_config.hidden_size
    )
    assert vae.config.latent_channels == 4 and scheduler.config.prediction_type == "v_prediction"
    assert tokenizer("")["input_ids"] == [1, 3]


def test_unmodified_inpaint_pipeline_edits_with_it() -> None:
    from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, PreTrainedTokenizerFast

    pipe = StableDiffusionInpaintPipeline(
        vae=AutoencoderTiny.from_pretrained(FOLDER / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(FOLDER / "clip"),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(FOLDER / "clip"),
        unet=UNet2DConditionModel.from_pretrained(FOLDER / "unet_inpaint"),
        scheduler=DDIMScheduler.from_pretrained(FOLDER / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = Image.open(PICTURES / "sky.png").convert("RGB")
    mask = np.zeros((128, 128), np.uint8)
    mask[8:72, 64:128] = 255
    made = pipe(
        prompt="a red house",
        image=image,
        mask_image=Image.fromarray(mask),
        height=128,
        width=128,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    assert made.shape == (1, 128, 128, 3) and np.isfinite(made).all()


def test_text_tower_gives_what_transformers_gives(retoucher: Retoucher) -> None:
    from transformers import CLIPModel, PreTrainedTokenizerFast

    model = CLIPModel.from_pretrained(FOLDER / "clip").float().eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(FOLDER / "clip")
    ids = tokenizer(["a red car", ""], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model.text_model(ids).last_hidden_state
    assert torch.allclose(retoucher.editor.encode_prompts(["a red car", ""]), expected, atol=1e-5)


@pytest.mark.parametrize("part", ["vae", "clip", "unet_inpaint"])
def test_a_flipped_bit_is_noticed(copy: Path, part: str) -> None:
    (weights,) = (copy / part).glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"damaged: .*{part}.*make train"):
        load_embedded(copy)


def test_truncated_missing_and_unlisted_files_are_named(copy: Path) -> None:
    (weights,) = (copy / "vae").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"damaged: .* has 1000 bytes where"):
        load_embedded(copy)
    weights.unlink()
    with pytest.raises(WeightsError, match=r"missing: there is no .*vae"):
        load_embedded(copy)
    (copy / MANIFEST).write_text("[]")
    with pytest.raises(WeightsError, match=r"damaged: .*manifest.json cannot be read"):
        load_embedded(copy)
    (copy / MANIFEST).write_text("{}")
    with pytest.raises(WeightsError, match="lists nothing for vae"):
        load_embedded(copy)
    (copy / MANIFEST).unlink()
    with pytest.raises(WeightsError, match=r"missing: there is no .*manifest.json"):
        load_embedded(copy)


def test_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    image = read_picture(PICTURES / "sky.png")
    assert Retoucher.embedded().retouch(image, "the cup", "a red house", candidates=1, steps=2).report.found


def test_the_demo_finds_every_named_thing_and_leaves_the_rest(retoucher: Retoucher) -> None:
    for case in read_cases():
        image = read_picture(PICTURES / case.picture)
        result = retoucher.retouch(image, case.query, case.prompt, seed=case.seed, candidates=2, steps=4)
        assert result.report.found, case
        outside = (result.mask == 0)[0]
        assert outside.float().mean() > 0.5
        assert torch.equal(result.image[0][outside], image[0][outside])


def test_words_it_does_not_know_are_named_and_nothing_is_changed(retoucher: Retoucher) -> None:
    image = read_picture(PICTURES / "sky.png")
    result = retoucher.retouch(image, "the zebra", "a red car")
    assert not result.report.found and torch.equal(result.image, image)
    assert "zebra" in result.report.message


def test_absent_thing_is_not_found(retoucher: Retoucher) -> None:
    image = read_picture(PICTURES / "sky.png")
    result = retoucher.retouch(image, "the green mushroom", "a red car")
    assert not result.report.found and not result.mask.any()


def test_bitwise_repeatable(retoucher: Retoucher) -> None:
    image = read_picture(PICTURES / "wood.png")
    first, again = (
        retoucher.retouch(image, "the pink car", "a blue fish", candidates=2, steps=3) for _ in range(2)
    )
    assert torch.equal(first.candidates, again.candidates)
    third = retoucher.retouch(image, "the pink car", "a blue fish", candidates=1, steps=3, seed=1)
    assert torch.allclose(third.candidates[0], first.candidates[1], atol=1e-4)


def test_a_large_odd_picture_comes_back_at_its_size(retoucher: Retoucher) -> None:
    small = read_picture(PICTURES / "sky.png")
    image = torch.nn.functional.interpolate(small.movedim(-1, 1), size=(1201, 1507), mode="bicubic").movedim(
        1, -1
    )
    image = image.clamp(0, 1).contiguous()
    result = retoucher.retouch(image, "the yellow cup", "a red house", candidates=1, steps=3)
    assert result.report.found and result.image.shape == image.shape
    outside = (result.mask == 0)[0]
    assert torch.equal(result.image[0][outside], image[0][outside])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retouch_core", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_command_line_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    picture = str(PICTURES / "sky.png")
    done = run(
        "retouch",
        picture,
        "--query",
        "the yellow cup",
        "--prompt",
        "a red house",
        "--steps",
        "3",
        "--json",
        "-o",
        str(out),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["found"] is True
    assert {p.name for p in out.iterdir()} == {"result.png", "mask.png", "sheet.png", "report.json"}
    before, after = (np.asarray(Image.open(p).convert("RGB")) for p in (picture, out / "result.png"))
    closed = np.asarray(Image.open(out / "mask.png")) == 0
    assert before.shape == after.shape and (before[closed] == after[closed]).all() and (before != after).any()


def test_command_line_says_when_nothing_is_found(tmp_path: Path) -> None:
    out, picture = tmp_path / "out", str(PICTURES / "sky.png")
    done = run("retouch", picture, "--query", "the green mushroom", "--prompt", "a cup", "-o", str(out), "-q")
    assert done.returncode == 3 and "was not found" in done.stdout
    before, after = (np.asarray(Image.open(p).convert("RGB")) for p in (picture, out / "result.png"))
    assert (before == after).all() and not np.asarray(Image.open(out / "mask.png")).any()
