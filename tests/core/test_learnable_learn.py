"""The whole of learnable regions over stub models that are simple enough to know the answer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional

from retouch_core.models.protocols import Perception
from retouch_core.regions.learnable.learn import Learned, Settings, learn_regions
from retouch_core.regions.learnable.losses import EditLosses, Weights
from retouch_core.regions.learnable.training import Schedule
from retouch_core.regions.learnable.views import Views
from retouch_core.tensors.checks import InputWarning

SIDE = 64
COLOURS = {"grey": (0.5, 0.5, 0.5), "red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class Eye:
    """Embeds a view as its mean colour; tokens are the colours of 4x4 patches. Texts are the colour they name."""

    image_size = 16
    logit_scale, gate, rivals = 20.0, None, ()

    def perceive(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = functional.normalize(views.mean((2, 3)) + 1e-3, dim=-1)
        return mean, functional.avg_pool2d(views, 4).flatten(2).mT + 0.1

    def encode_images(self, views: torch.Tensor) -> torch.Tensor:
        return self.perceive(views)[0]

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        named = [next(c for name, c in COLOURS.items() if name in text) for text in texts]
        return functional.normalize(torch.tensor(named) + 1e-3, dim=-1)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return ()


def look(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention: how blue a patch is, of 16x16."""
    seen = functional.adaptive_avg_pool2d(image.movedim(-1, 1), 16)
    return seen[0, 2] - seen[0, 0] + 0.001 * torch.arange(256.0).view(16, 16), seen[0].repeat(4, 1, 1)


def scene() -> torch.Tensor:
    image = torch.full((1, SIDE, SIDE, 3), 0.5)
    image[:, 8:24, 36:52] = torch.tensor(COLOURS["blue"])
    return image


def paint(image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Everything blue inside the box becomes red, the rest of it black."""
    made = image.repeat(len(boxes), 1, 1, 1)
    for picture, (x0, y0, x1, y1) in zip(made, boxes.tolist(), strict=True):
        part = picture[y0:y1, x0:x1]
        blue = (part[..., 2:] > 0.9).expand_as(part)
        part.copy_(torch.where(blue, torch.tensor(COLOURS["red"]), torch.zeros(3)))
    return made


def learn(
    image: torch.Tensor | None = None, prompt: str = "red", caption: str = "blue", **changes: Any
) -> Learned:
    given: dict[str, Any] = {
        "attention": look,
        "perception": Eye(),
        "scorer": Eye(),
        "edit": paint,
        **{name: changes.pop(name) for name in list(changes) if name in ("edit", "choose", "progress")},
    }
    options = {"count": 3, "sizes": 4, "views": 3, **changes}
    return learn_regions(
        scene() if image is None else image, prompt, caption, settings=Settings(**options), **given
    )


def test_exhaustive_takes_the_least_loss_of_every_anchor():
    assert isinstance(Eye(), Perception)
    done: list[tuple[int, int]] = []
    found = learn(progress=lambda k, n: done.append((k, n)))
    distinct = len(found.candidates.flatten(0, 1).unique(dim=0))  # those at the border may coincide
    assert found.mode == "exhaustive" and found.made == distinct <= 12
    assert done[-1] == (distinct, distinct) and done == sorted(done)
    assert found.chosen.tolist() == found.losses["total"].argmin(-1).tolist()
    parts = found.losses["clip"] + found.losses["direction"] + found.losses["structure"]
    torch.testing.assert_close(found.losses["total"], parts)
    assert found.winner == int(found.scores.argmax())
    for box, mask, edited in zip(found.boxes, found.masks, found.edited, strict=True):
        assert torch.equal(edited, paint(scene(), box[None])[0])
        x0, y0, x1, y1 = box.tolist()
        assert int(mask.sum()) == (x1 - x0) * (y1 - y0) and bool(mask[y0:y1, x0:x1].all())
    # The anchors lie on the blue thing: rows 2..5, columns 9..12 of 16.
    assert ((found.anchors >= torch.tensor([2, 9])) & (found.anchors <= torch.tensor([5, 12]))).all()


@pytest.mark.parametrize("mode", ["reinforce", "gumbel_st"])
def test_a_trained_network_gives_one_finished_box_per_anchor(mode: str):
    steps: list[tuple[int, int]] = []
    found = learn(mode=mode, schedule=Schedule(2, 2), progress=lambda k, n: steps.append((k, n)))
    again = learn(mode=mode, schedule=Schedule(2, 2))
    assert found.probs is not None and found.probs.sum(-1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert found.chosen.tolist() == found.probs.argmax(-1).tolist()
    assert len(found.history) == 4 and steps == [(k, 4) for k in range(1, 5)]
    assert torch.equal(found.edited, again.edited) and found.history == again.history


@pytest.mark.parametrize("mode", ["reinforce", "gumbel_st", "exhaustive"])
def test_inference_mode_of_a_host_gives_the_same(mode: str):
    plain = learn(mode=mode, schedule=Schedule(1, 2))
    modes: list[bool] = []

    def edit(image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        modes.append(torch.is_inference_mode_enabled())
        return paint(image, boxes)

    with torch.inference_mode():
        found = learn(scene(), mode=mode, schedule=Schedule(1, 2), edit=edit)
    assert torch.equal(found.edited, plain.edited) and found.history == plain.history
    assert all(modes)  # the host's networks run as the host runs them


def test_the_callers_choice_decides_the_winner():
    found = learn(choose=lambda source, made: (torch.tensor([0.1, 0.3, 0.2]), 2))
    assert found.winner == 2 and found.scores.tolist() == pytest.approx([0.1, 0.3, 0.2])


def test_auto_trains_where_there_are_too_many_boxes_to_try():
    assert Settings().settled_mode(9 * 7) == "exhaustive"
    assert Settings().settled_mode(65) == "reinforce"


def test_random_anchors_and_sizes_are_the_baseline_of_the_paper():
    found = learn(mode="random", anchors="random", seed=4)
    assert found.made == 3 and found.probs is None
    assert not torch.equal(found.anchors, learn(mode="random", anchors="random", seed=5).anchors)


# --- bad input ---


def test_an_empty_caption_leaves_the_direction_out():
    with pytest.warns(InputWarning, match="caption is empty"):
        found = learn(caption=" ")
    torch.testing.assert_close(found.losses["total"], found.losses["clip"] + found.losses["structure"])
    assert (found.losses["direction"] == 1).all()


def test_equal_texts_make_the_direction_one():
    with pytest.warns(InputWarning, match="mean the same"):
        found = learn(prompt="red", caption="red")
    assert (found.losses["direction"] == 1).all()


def test_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"edit gave \[8, 32, 64, 3\] for 8 boxes .* must give \[8, 64, 64, 3\]"
    ):
        learn(edit=lambda image, boxes: paint(image, boxes)[:, ::2])


def test_too_many_anchors_are_clamped():
    with pytest.warns(InputWarning, match="only 256 patches"):
        assert len(learn(count=300, sizes=1, views=1, mode="random").boxes) == 256


@pytest.mark.parametrize("kind", [torch.cuda.OutOfMemoryError, MemoryError, RuntimeError])
def test_out_of_memory_keeps_what_is_finished(kind: type[Exception]):
    edited: list[list[int]] = []

    def edit(image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        if len(boxes) > 2 or len(edited) >= 6:
            raise kind("CUDA out of memory: tried to allocate")
        edited.extend(boxes.tolist())
        return paint(image, boxes)

    found = learn(edit=edit, mode="exhaustive")
    assert found.made == 6 and len(found.boxes) == 2 and found.kept.tolist() == [0, 1]
    assert int(torch.isfinite(found.losses["total"]).sum()) == 6
    assert any("memory ran out after 6 edits" in note for note in found.notes)
    assert any("1 of 3 anchors" in note for note in found.notes)


@pytest.mark.parametrize("mode", ["reinforce", "gumbel_st"])
def test_out_of_memory_while_training_keeps_what_is_finished(mode: str):
    calls = []

    def edit(image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        calls.append(len(boxes))
        if len(calls) > 1:
            raise MemoryError
        return paint(image, boxes)

    found = learn(edit=edit, mode=mode, schedule=Schedule(1, 3))
    assert len(found.boxes) == 3 and found.made <= 3 and len(found.history) == 3


def test_other_errors_of_the_callback_pass():
    def edit(image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the artist cancelled")

    with pytest.raises(RuntimeError, match="cancelled"):
        learn(edit=edit)


def test_an_edit_of_nan_is_left_out_and_told():
    def edit(image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        made = paint(image, boxes)
        made[0] = torch.nan
        return made

    found = learn(edit=edit)
    assert torch.isfinite(found.edited).all()
    assert any("loss nan" in note for note in found.notes)
    with pytest.raises(ValueError, match="edit made no usable picture"):
        learn(edit=lambda image, boxes: paint(image, boxes) * torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "best"}, "mode must be one of"),
        ({"anchors": "dino"}, "anchors must be one of"),
        ({"count": 0}, "anchors must be a whole number from 1 up, got 0"),
        ({"sizes": 0}, "sizes must be a whole number"),
        ({"views": 0}, "views must be a whole number"),
        ({"schedule": Schedule(epochs=0)}, "epochs must be a whole number"),
        ({"weights": Weights(clip=float("nan"))}, "weight clip must be a number from 0 up, got nan"),
        ({"template": "red"}, "template must hold {}"),
        ({"prompt": " "}, "prompt is empty"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        learn(**change)


# --- 7.5 views and losses ---


def test_views_are_the_same_for_every_picture_and_belong_to_the_seed():
    images = torch.rand(2, 40, 56, 3, generator=torch.Generator().manual_seed(0))
    views = Views(16, 5, seed=1)
    both = views(images)
    assert both.shape == (2, 5, 3, 16, 16) and ((both >= 0) & (both <= 1)).all()
    torch.testing.assert_close(views(images[1:])[0], both[1])
    torch.testing.assert_close(Views(16, 5, seed=1)(images), both)
    assert not torch.allclose(Views(16, 5, seed=2)(images), both)


def test_crops_are_the_frame_and_shares_of_each_side():
    views = Views(16, 200, seed=0)
    crops = torch.tensor(views.crops)
    assert crops[0].tolist() == [0, 0, 1, 1]
    assert ((crops[:, 2] >= 0.6) & (crops[:, :2] + crops[:, 2:] <= 1 + 1e-6).all(1)).all()
    assert crops[1:, 2].mean().item() == pytest.approx(0.8, abs=0.03)


def test_what_comes_in_from_outside_is_white():
    white = Views(16, 16, seed=3)(torch.ones(1, 32, 32, 3))
    assert white.min() > 0.75  # jitter darkens by a tenth at most twice; black would be 0


def test_an_unchanged_picture_has_no_structure_loss_and_gradients_reach_the_picture():
    eye, image = Eye(), scene()
    target, old = eye.encode_texts(["red", "blue"])
    losses = EditLosses(image, target, old, eye, Views(16, 3))
    same = losses(image)
    assert same["structure"].item() == 0 and same["direction"].item() == 1
    edited = paint(image, torch.tensor([[30, 4, 60, 30]])).requires_grad_()
    parts = losses(edited)
    Weights().total(parts).sum().backward()
    assert edited.grad is not None and bool(edited.grad.abs().sum() > 0)
    assert all(0 <= float(value.detach()) <= 2 for value in parts.values())


def test_ordinary_learning_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        learn(count=1, sizes=1)
