"""Anchors, boxes, region network and losses of learnable regions against the numbers of methods.md 7."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch_core.regions.learnable.anchors import random_anchors, top_anchors
from retouch_core.regions.learnable.losses import (
    Weights,
    clip_loss,
    direction_loss,
    self_similarity,
    structure_loss,
)
from retouch_core.regions.learnable.proposals import box_masks, half_sizes, patch_boxes, pixel_boxes
from retouch_core.regions.learnable.region_network import RegionNetwork
from retouch_core.tensors.checks import InputWarning

# --- 7.2 anchors ---


def brute_anchors(attention: torch.Tensor, count: int, distance: int) -> list[list[int]]:
    """Greedy suppression by the definition, over all patches."""
    height, width = attention.shape
    patches = sorted(
        ((y, x) for y in range(height) for x in range(width)), key=lambda p: -float(attention[p])
    )
    chosen: list[tuple[int, int]] = []
    for p in patches:
        if len(chosen) < count and all(max(abs(p[0] - q[0]), abs(p[1] - q[1])) >= distance for q in chosen):
            chosen.append(p)
    return [list(p) for p in chosen]


@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (32, 32)])
def test_anchors_are_the_largest_that_are_two_patches_apart(shape: tuple[int, int]):
    attention = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    assert top_anchors(attention, 6).tolist() == brute_anchors(attention, 6, 2)
    assert top_anchors(attention, 6, 1).tolist() == brute_anchors(attention, 6, 1)


def test_an_anchor_at_the_border_is_as_good_as_another():
    attention = torch.zeros(32, 32)
    attention[0, 31], attention[15, 15] = 1.0, 0.5
    assert top_anchors(attention, 2).tolist() == [[0, 31], [15, 15]]


def test_where_suppression_leaves_too_few_the_next_ones_fill_up():
    attention = torch.tensor([[0.1, 0.4], [0.3, 0.2]])
    assert top_anchors(attention, 3).tolist() == [[0, 1], [1, 0], [1, 1]]


def test_more_anchors_than_patches_are_clamped_and_told():
    with pytest.warns(InputWarning, match="only 4 patches"):
        assert len(top_anchors(torch.rand(2, 2), 9)) == 4


def test_random_anchors_are_different_patches():
    drawn = random_anchors((4, 5), 20, torch.Generator().manual_seed(0))
    assert len(drawn.unique(dim=0)) == 20 and drawn.amax(0).tolist() == [3, 4]


# --- 7.2, 7.3 boxes ---


def test_half_4_at_patch_15_is_91_to_157_of_256():
    boxes = patch_boxes(torch.tensor([[15, 15]]), torch.tensor([4.0]), (32, 32))
    assert boxes.tolist() == [[[11.0, 11.0, 19.0, 19.0]]]
    assert pixel_boxes(boxes, (32, 32), (256, 256)).tolist() == [[[91, 91, 157, 157]]]


def test_seven_sizes_are_an_eighth_to_seven_eighths():
    assert half_sizes(7).tolist() == [2, 4, 6, 8, 10, 12, 14]
    assert (2 * half_sizes(7) / 32)[[0, -1]].tolist() == [0.125, 0.875]


def test_row_is_y_and_column_is_x():
    """The official code swaps them, so that the square lies mirrored on the main diagonal."""
    boxes = patch_boxes(torch.tensor([[2, 10]]), torch.tensor([2.0]), (32, 32))
    x0, y0, x1, y1 = pixel_boxes(boxes, (32, 32), (256, 256))[0, 0].tolist()
    assert x0 > 60 and x1 < 110 and y0 == 0 and y1 < 40


def test_a_box_at_the_corner_is_clipped_and_reaches_the_border():
    boxes = patch_boxes(torch.tensor([[31, 31], [0, 0]]), torch.tensor([6.0]), (32, 32))
    pixels = pixel_boxes(boxes, (32, 32), (200, 300))
    assert pixels[0, 0, 2:].tolist() == [300, 200] and pixels[1, 0, :2].tolist() == [0, 0]


@settings(max_examples=60, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(16, 300), st.integers(16, 300)),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_box_holds_its_anchor_and_lies_in_the_picture(grid, size, place):
    anchor = torch.tensor([[round(share * (side - 1)) for share, side in zip(place, grid, strict=True)]])
    boxes = patch_boxes(anchor, half_sizes(7), grid)
    pixels = pixel_boxes(boxes, grid, size)
    assert (pixels[..., 2:] > pixels[..., :2]).all() and (pixels >= 0).all()
    assert (pixels[..., [3, 2]] <= torch.tensor(size)).all()
    masks = box_masks(pixels, size)
    area = (pixels[..., 2] - pixels[..., 0]) * (pixels[..., 3] - pixels[..., 1])
    assert torch.equal(masks.sum((-1, -2)), area)
    # Larger sizes hold the smaller ones.
    assert (masks[0, 1:] | ~masks[0, :-1]).all()


# --- 7.3 region network ---


@pytest.mark.parametrize(("sizes", "count"), [(7, 1779), (6, 1678)])
def test_the_network_has_as_many_parameters_as_published(sizes: int, count: int):
    network = RegionNetwork(768, sizes)
    assert sum(p.numel() for p in network.head.parameters()) == count
    assert sum(p.numel() for p in network.reduce.parameters()) == 9228
    assert not any(p.requires_grad for p in network.reduce.parameters())


def test_its_weights_belong_to_the_seed_and_leave_the_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = RegionNetwork(5, 3, 1), RegionNetwork(5, 3, 1), RegionNetwork(5, 3, 2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.reduce.weight, same.reduce.weight)
    assert not torch.equal(one.reduce.weight, other.reduce.weight)


def test_boxes_are_pooled_where_they_are_and_in_the_order_of_anchors_and_sizes():
    """Features that are their own coordinates: the mean of a pooled box is its middle."""
    network = RegionNetwork(2, 3)
    with torch.no_grad():
        network.reduce.weight.zero_()
        network.reduce.bias.zero_()
        network.reduce.weight[0, 0] = network.reduce.weight[1, 1] = 1.0
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing="ij")
    anchors = torch.tensor([[5, 9], [12, 7]])
    boxes = patch_boxes(anchors, torch.tensor([3.2, 4.8, 6.4]), (20, 24))
    pooled = network.pooled(torch.stack([x, y]), boxes)
    assert pooled.shape == (2, 36, 8, 8)
    found = pooled.unflatten(1, (3, 12))[:, :, :2]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    torch.testing.assert_close(found.mean((-1, -2)), middle, atol=1e-4, rtol=0)
    # Over a linear ramp the eight bins are evenly spaced: their range is 7/8 of the box.
    span = found.amax((-1, -2)) - found.amin((-1, -2))
    torch.testing.assert_close(span, (boxes[..., 2:] - boxes[..., :2]) * 7 / 8, atol=1e-4, rtol=0)


def test_equal_logits_are_equal_chances():
    network = RegionNetwork(4, 7)
    with torch.no_grad():
        network.head[7].weight.zero_()
        network.head[7].bias.fill_(0.3)
    boxes = patch_boxes(torch.tensor([[3, 3], [5, 1]]), half_sizes(7), (8, 8))
    probs = network(torch.randn(4, 8, 8), boxes).exp()
    torch.testing.assert_close(probs, torch.full((2, 7), 1 / 7))


# --- 7.5 losses ---


def test_structure_of_two_tokens():
    before = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    after = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    assert structure_loss(after, before).item() == pytest.approx(0.25, abs=1e-6)
    assert structure_loss(before, before).item() == 0


def test_direction_of_45_degrees():
    source = torch.zeros(1, 2)
    edited = source + torch.tensor([1.0, 0.0])
    loss = direction_loss(edited[None], source, torch.tensor([1.0, 1.0]))
    assert loss.item() == pytest.approx(0.29289, abs=5e-6)


@pytest.mark.parametrize("zero", ["edit", "text"])
def test_a_change_without_direction_counts_one_and_has_a_finite_gradient(zero: str):
    source = torch.rand(3, 4)
    edited = (source + (0.0 if zero == "edit" else 0.1))[None].clone().requires_grad_()
    change = torch.rand(4) * (zero == "edit")
    loss = direction_loss(edited, source, change)
    assert loss.item() == 1
    loss.backward()
    assert torch.isfinite(edited.grad).all()


def test_losses_are_means_over_views():
    generator = torch.Generator().manual_seed(1)
    unit = torch.nn.functional.normalize(torch.randn(2, 5, 8, generator=generator), dim=-1)
    source = torch.nn.functional.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    text, old = torch.nn.functional.normalize(torch.randn(2, 8, generator=generator), dim=-1)
    cosine = torch.nn.functional.cosine_similarity
    for n in range(2):
        clip = sum(1 - float(unit[n, v] @ text) for v in range(5)) / 5
        moved = sum(1 - float(cosine(unit[n, v] - source[v], text - old, 0)) for v in range(5)) / 5
        assert clip_loss(unit, text)[n].item() == pytest.approx(clip, abs=1e-6)
        assert direction_loss(unit, source, text - old)[n].item() == pytest.approx(moved, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), tokens=st.integers(1, 6), width=st.integers(1, 4))
def test_all_losses_lie_in_0_to_2(seed: int, tokens: int, width: int):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 3, tokens, width, generator=generator, dtype=torch.float64).sign() + 1e-9
    unit = torch.nn.functional.normalize(a, dim=-1)
    source = torch.nn.functional.normalize(b, dim=-1)
    change = source[0, 0] - unit[0, 0]
    for loss in (
        clip_loss(unit, source[0, 0]),
        direction_loss(unit, source[0], change),
        structure_loss(a, b[:1]),
    ):
        assert ((loss >= -1e-9) & (loss <= 2 + 1e-9)).all()


def test_self_similarity_does_not_see_lengths():
    tokens = torch.rand(1, 5, 3)
    torch.testing.assert_close(
        self_similarity(tokens), self_similarity(tokens * torch.rand(1, 5, 1).add(0.1))
    )


def test_weights_of_zero_leave_a_loss_out_even_where_it_is_nan():
    parts = {
        "clip": torch.tensor([1.0]),
        "direction": torch.tensor([math.nan]),
        "structure": torch.tensor([0.5]),
    }
    assert Weights(1, 0, 2).total(parts).tolist() == [2.0]
