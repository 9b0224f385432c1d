"""The choice of a box: closed forms, stub tables, and that something is learnt at all (methods.md 7.6)."""

from __future__ import annotations

import pytest
import torch

from retouch_core.regions.learnable.edits import Edits
from retouch_core.regions.learnable.losses import Weights
from retouch_core.regions.learnable.proposals import half_sizes, patch_boxes, pixel_boxes
from retouch_core.regions.learnable.region_network import RegionNetwork
from retouch_core.regions.learnable.training import (
    Schedule,
    best_boxes,
    exhaustive,
    gumbel_st,
    likeliest,
    reinforce,
    sampled_objective,
    straight_through,
)

TABLE = torch.tensor([[1.1, 0.4, 0.9, 1.3], [0.5, 1.2, 1.0, 0.9], [1.4, 1.2, 1.1, 0.3]])
SIDE = 64


def boxes_of_table() -> tuple[torch.Tensor, torch.Tensor]:
    """Patch and pixel boxes of three anchors that never coincide."""
    boxes = patch_boxes(torch.tensor([[3, 3], [4, 12], [12, 7]]), half_sizes(4), (16, 16))
    return boxes, pixel_boxes(boxes, (16, 16), (SIDE, SIDE))


class TableEdits:
    """An editor that writes which box it was asked for, and losses that read it."""

    def __init__(self, table: torch.Tensor = TABLE) -> None:
        self.table, self.asked = table, []
        self.patches, self.boxes = boxes_of_table()

    def edit(self, image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        made = image.repeat(len(boxes), 1, 1, 1)
        for picture, box in zip(made, boxes, strict=True):
            anchor, size = (self.boxes == box).all(-1).nonzero()[0].tolist()
            self.asked.append((anchor, size))
            picture[0, 0, 0], picture[0, 0, 1] = anchor / 10, size / 10
        return made

    def losses(self, edited: torch.Tensor) -> dict[str, torch.Tensor]:
        where = (edited[:, 0, 0, :2] * 10).round().long()
        loss = self.table[where[:, 0], where[:, 1]]
        return {"clip": loss, "direction": torch.ones_like(loss), "structure": torch.zeros_like(loss)}

    def edits(self) -> Edits:
        return Edits(torch.zeros(1, SIDE, SIDE, 3), self.boxes, self.edit, self.losses, Weights(1, 0, 0))


def silent(done: int) -> None:
    del done


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("baseline", [0.0, 1.7])
def test_the_expected_gradient_is_pi_times_loss_less_mean(baseline: float):
    """M=2, losses 1 and 3, logits 0: [-0.5, 0.5], and after a step of 1 the chances are .731 and .269."""
    logits = torch.zeros(1, 2, requires_grad=True)
    expected = torch.zeros(1, 2)
    for choice, loss in enumerate([1.0, 3.0]):
        log_probs = torch.log_softmax(logits, -1)
        objective = sampled_objective(
            log_probs, torch.tensor([choice]), torch.tensor([loss]), torch.tensor([baseline]), entropy=0
        )
        (gradient,) = torch.autograd.grad(objective, logits)
        expected += 0.5 * gradient
    assert expected[0].tolist() == pytest.approx([-0.5, 0.5])
    after = torch.softmax(logits.detach() - expected, -1)[0]
    assert after.tolist() == pytest.approx([0.731, 0.269], abs=5e-4)


def test_straight_through_without_noise():
    log_probs = torch.tensor([[0.2, 0.3, 0.5]]).log().requires_grad_()
    hard, one_hot = straight_through(log_probs, torch.zeros(1, 3))
    assert hard.tolist() == [2]
    torch.testing.assert_close(one_hot.detach(), torch.tensor([[0.0, 0.0, 1.0]]))
    (one_hot * torch.tensor([[1.0, 2.0, 4.0]])).sum().backward()
    soft = torch.tensor([0.2, 0.3, 0.5])
    # The gradient of the soft sample: p_j (w_j - sum p w).
    expected = soft * (torch.tensor([1.0, 2.0, 4.0]) - 2.8)
    torch.testing.assert_close(log_probs.grad[0], expected)


def test_exhaustive_is_the_least_of_every_row_and_edits_every_box_once():
    stub = TableEdits()
    edits = stub.edits()
    exhaustive(edits, silent)
    torch.testing.assert_close(edits.losses["total"], TABLE)
    assert best_boxes(edits.losses["total"]).tolist() == TABLE.argmin(-1).tolist()
    assert sorted(stub.asked) == [(i, j) for i in range(3) for j in range(4)]


def test_reinforce_comes_to_what_exhaustive_finds():
    stub = TableEdits()
    edits = stub.edits()
    features = torch.randn(16, 16, 16, generator=generator(1))
    network = RegionNetwork(16, 4, seed=0)
    history = reinforce(
        lambda: network(features, stub.patches),
        list(network.head.parameters()),
        edits,
        Schedule(epochs=40, repeats=10, rate=0.01),
        2.0,
        generator(),
        silent,
    )
    probs = network(features, stub.patches)
    assert likeliest(probs, edits.done).tolist() == TABLE.argmin(-1).tolist()
    assert sum(history.losses[-20:]) / 20 < TABLE.mean()
    assert len(stub.asked) == len(set(stub.asked)) <= 12


@pytest.mark.parametrize("mode", ["reinforce", "gumbel_st"])
def test_one_step_reaches_the_parameters_of_the_network(mode: str):
    """In the official code none gets a gradient."""
    stub = TableEdits()
    image = torch.rand(1, SIDE, SIDE, 3, generator=generator(2))
    target = torch.rand(SIDE, SIDE, 3, generator=generator(3))

    def edit(given: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        made = given.repeat(len(boxes), 1, 1, 1)
        for picture, (x0, y0, x1, y1) in zip(made, boxes.tolist(), strict=True):
            picture[y0:y1, x0:x1] = 1 - picture[y0:y1, x0:x1]
        return made

    def losses(edited: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (edited - target).square().mean((1, 2, 3))
        return {"clip": loss, "direction": loss, "structure": loss}

    edits = Edits(image, stub.boxes, edit, losses, Weights())
    network = RegionNetwork(16, 4, seed=0)
    features = torch.randn(16, 16, 16, generator=generator(1))
    before = {name: value.clone() for name, value in network.named_parameters()}
    parameters, schedule = list(network.head.parameters()), Schedule(1, 1)

    def log_probs() -> torch.Tensor:
        return network(features, stub.patches)

    if mode == "reinforce":
        reinforce(log_probs, parameters, edits, schedule, 1.0, generator(), silent)
    else:
        gumbel_st(log_probs, parameters, edits, schedule, generator(), silent)
    reached = [name for name, p in network.head.named_parameters() if p.grad is not None and p.grad.any()]
    assert "5.weight" in reached and "7.weight" in reached  # the linear layers
    moved = [name for name, p in network.named_parameters() if not torch.equal(before[name], p)]
    assert moved and all(name.startswith("head.") for name in moved)


def test_gumbel_leans_to_the_box_whose_ring_helps():
    """An edit that goes half of the way: where the larger box was taken, its ring speaks for it and against the smaller.

    Where the smaller was taken there is no ring, both cover the same, and nothing is learnt.
    """
    image = torch.zeros(1, SIDE, SIDE, 3)
    boxes = torch.tensor([[[24, 24, 40, 40], [16, 16, 48, 48]]])

    def edit(given: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        made = given.repeat(len(asked), 1, 1, 1)
        for picture, (x0, y0, x1, y1) in zip(made, asked.tolist(), strict=True):
            picture[y0:y1, x0:x1] = 0.5
        return made

    def losses(edited: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (edited - 1).square().mean((1, 2, 3))
        return {"clip": loss, "direction": loss * 0, "structure": loss * 0}

    logits = torch.nn.Parameter(torch.zeros(1, 2))
    gumbel_st(
        lambda: torch.log_softmax(logits, -1),
        [logits],
        Edits(image, boxes, edit, losses, Weights(1, 0, 0)),
        Schedule(epochs=2, repeats=20, rate=0.05),
        generator(),
        silent,
    )
    assert logits[0, 1] > logits[0, 0]


def test_boxes_that_coincide_are_edited_once():
    asked: list[list[int]] = []

    def edit(image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        asked.extend(boxes.tolist())
        return image.repeat(len(boxes), 1, 1, 1)

    def losses(edited: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: torch.arange(len(edited)) + 1.0 for name in ("clip", "direction", "structure")}

    boxes = torch.tensor([[[0, 0, 9, 9], [0, 0, 20, 20]], [[0, 0, 20, 20], [5, 5, 20, 20]]])
    edits = Edits(torch.zeros(1, 32, 32, 3), boxes, edit, losses, Weights(1, 0, 0))
    exhaustive(edits, silent)
    assert asked == [[0, 0, 9, 9], [0, 0, 20, 20], [5, 5, 20, 20]] and edits.made == 3
    assert edits.losses["total"].tolist() == [[1, 2], [2, 3]]
