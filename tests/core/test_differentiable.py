"""Weights that are lent for a backward pass, and given back."""

from __future__ import annotations

import pytest
import torch

from retouch_core.models.differentiable import gradients, lent

CARD = torch.device("meta")


def test_weights_made_without_gradients_let_them_through_and_come_back() -> None:
    with torch.inference_mode():
        layer = torch.nn.Linear(3, 2)
        before = dict(layer.named_parameters())
        with gradients(), lent(layer):
            x = torch.rand(4, 3, requires_grad=True)
            layer(x).sum().backward()
            assert torch.allclose(x.grad, layer.weight.sum(0).expand(4, 3))  # type: ignore[arg-type]
            assert not layer.weight.is_inference() and layer.weight.data_ptr() == before["weight"].data_ptr()
    assert all(dict(layer.named_parameters())[name] is value for name, value in before.items())


def test_stand_ins_lie_on_the_device_that_is_asked_for() -> None:
    layers = torch.nn.Sequential(
        torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3).to(CARD)
    )
    before = {**dict(layers.named_parameters()), **dict(layers.named_buffers())}
    with lent(layers, device=CARD):
        inside = {**dict(layers.named_parameters()), **dict(layers.named_buffers())}
        assert {value.device for value in inside.values()} == {CARD}
        assert not any(value.requires_grad for value in inside.values())
    after = {**dict(layers.named_parameters()), **dict(layers.named_buffers())}
    assert all(after[name] is value for name, value in before.items())


def test_a_weight_without_values_counts_as_zeros() -> None:
    layer = torch.nn.Linear(3, 2, device="meta")
    with gradients(), lent(layer, device=torch.device("cpu")):
        assert layer(torch.ones(1, 3)).tolist() == [[0, 0]]
    assert layer.weight.is_meta


def test_they_come_back_after_an_error() -> None:
    layer = torch.nn.Linear(3, 2)
    before = layer.weight
    with pytest.raises(RuntimeError), lent(layer, device=CARD):
        raise RuntimeError
    assert layer.weight is before
