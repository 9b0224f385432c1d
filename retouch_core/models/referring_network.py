"""The embedded referrer's network: dense features of a CLIP vision tower, and a small decoder that a phrase steers.

After CLIPSeg (Lüddecke & Ecker 2022): activations of several layers of a frozen tower, FiLM by the phrase's embedding,
a light decoder. Here the tower runs on a picture larger than the views it learnt from, with its position embeddings
interpolated, and shallow convolutions over the pixels give the outlines that patches of 8 px lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PREFIX = "vision_model."
QUICK_GELU = 1.702
"""Slope inside the sigmoid of CLIP's activation (Radford et al. 2021, released code)."""


@dataclass(frozen=True)
class Shape:
    """The numbers that make a network; saved beside its weights.

    Attributes:
        side: picture side in pixels at which it looks.
        hidden, heads, mlp, patch, grid: of the tower; `grid` is the side, in patches, of the views it learnt from.
        taps: how many of its first layers are looked at.
        text: width of phrase embeddings.
        width: channels of the decoder at the tower's resolution; embed: numbers per pixel.
    """

    side: int = 128
    hidden: int = 128
    heads: int = 4
    mlp: int = 512
    patch: int = 8
    grid: int = 8
    taps: int = 3
    text: int = 128
    width: int = 64
    embed: int = 16

    def as_json(self) -> dict[str, int]:
        """Plain JSON values."""
        return asdict(self)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return out


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = _Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, mlp), "fc2": nn.Linear(mlp, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        inner = self.mlp["fc1"](self.layer_norm2(x))
        out: Tensor = x + self.mlp["fc2"](inner * torch.sigmoid(QUICK_GELU * inner))
        return out


class DenseTower(nn.Module):
    """The first layers of a CLIP vision tower, for pictures of any whole number of patches.

    Names of weights are those of transformers' `CLIPModel` without `vision_model.`.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.hidden
        self.grid = shape.grid
        self.embeddings = nn.ParameterDict({"class_embedding": nn.Parameter(torch.zeros(width))})
        self.patch_embedding = nn.Conv2d(3, width, shape.patch, shape.patch, bias=False)
        self.position_embedding = nn.Embedding(shape.grid**2 + 1, width)
        self.pre_layrnorm = nn.LayerNorm(width)
        self.layers = nn.ModuleList([_Layer(width, shape.heads, shape.mlp) for _ in range(shape.taps)])

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings [1 + rows*columns, width], bicubic between those that were learnt, as transformers does."""
        learnt = self.position_embedding.weight
        if (rows, columns) == (self.grid, self.grid):
            return learnt
        plane = learnt[1:].T.reshape(1, -1, self.grid, self.grid)
        between = F.interpolate(plane, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([learnt[:1], between[0].flatten(1).T])

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B,3,H,W] in -1..1 -> activations of the patches after each layer, [B,taps*width,H/patch,W/patch]."""
        patches = self.patch_embedding(pixels)
        rows, columns = patches.shape[-2:]
        first = self.embeddings["class_embedding"].expand(len(pixels), 1, -1)
        x = torch.cat([first.to(patches), patches.flatten(2).transpose(1, 2)], 1)
        x = self.pre_layrnorm(x + self.positions(rows, columns).to(x))
        out = []
        for layer in self.layers:
            x = layer(x)
            out.append(x[:, 1:].transpose(1, 2).unflatten(-1, (rows, columns)))
        return torch.cat(out, 1)

    def load_clip(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights out of a whole `CLIPModel` state; KeyError where one is missing."""
        own = {}
        for name in self.state_dict():
            parts = name.split(".")
            if parts[0] in ("patch_embedding", "position_embedding"):
                parts.insert(0, "embeddings")
            elif parts[0] == "layers":
                parts.insert(0, "encoder")
            own[name] = state[PREFIX + ".".join(parts)].float()
        self.load_state_dict(own)


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(8, after), nn.ReLU()
    )


class _Steered(nn.Module):
    """A residual block whose channels a phrase scales and shifts (FiLM, Perez et al. 2018)."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.film = nn.Linear(told, 2 * width)
        self.first = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(8, width), nn.GroupNorm(8, width)])

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.film(told)[:, :, None, None].chunk(2, 1)
        inner = F.relu(self.norms[0](self.first(x)) * (1 + scale) + shift)
        return F.relu(x + self.norms[1](self.second(inner)))


class Decoder(nn.Module):
    """Everything that is trained: what pixels and patches look like once, then one map for each phrase.

    A phrase makes, on a coarse grid, the weights with which the numbers of the pixels below are summed up, so that the
    outlines are the pixels' and a further phrase costs little.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, embed = shape.width, shape.embed
        self.level = nn.GroupNorm(shape.taps, shape.hidden * shape.taps)
        self.bring = nn.Conv2d(shape.hidden * shape.taps, width, 1)
        self.whole = _conv(3, 16)
        self.halved = nn.Sequential(_conv(16, 32, 2), _conv(32, 32))
        self.quartered = nn.Sequential(_conv(32, 48, 2), _conv(48, 48))
        self.eighth = _conv(48, width, 2)
        self.place = nn.Conv2d(2 * width + 2, width, 1)
        self.tell = nn.Sequential(nn.Linear(shape.text, 128), nn.ReLU())
        self.blocks = nn.ModuleList([_Steered(width, 128) for _ in range(3)])
        self.up = _conv(width + 48, 48)
        self.weights = nn.Conv2d(48, embed + 1, 1)
        self.mix = nn.Conv2d(16 + 32, 16, 1)
        self.pixel = nn.Sequential(_conv(16, 16), nn.Conv2d(16, embed, 1))
        nn.init.constant_(self.weights.bias, 0.0)  # type: ignore[arg-type]

    def look(self, pixels: Tensor, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [B,3,H,W] in -1..1 and the tower's activations -> what every phrase starts from."""
        full = self.whole(pixels)
        half = self.halved(full)
        quarter = self.quartered(half)
        coarse = torch.cat([self.bring(self.level(activations)), self.eighth(quarter)], 1)
        rows, columns = coarse.shape[-2:]
        y = torch.linspace(-1, 1, rows).to(coarse)[:, None].expand(rows, columns)
        x = torch.linspace(-1, 1, columns).to(coarse)[None].expand(rows, columns)
        where = torch.stack([x, y]).expand(len(coarse), -1, -1, -1)
        coarse = F.relu(self.place(torch.cat([coarse, where], 1)))
        raised = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
        return coarse, quarter, self.pixel(self.mix(torch.cat([full, raised], 1)))

    def answer(self, seen: tuple[Tensor, Tensor, Tensor], phrases: Tensor, owner: Tensor) -> Tensor:
        """Logits [P,H,W] for unit embeddings [P,text]; `owner` long [P] says which picture each phrase is about."""
        coarse, quarter, pixel = (part[owner] for part in seen)
        told = self.tell(phrases * phrases.shape[-1] ** 0.5)
        for block in self.blocks:
            coarse = block(coarse, told)
        raised = F.interpolate(coarse, scale_factor=2, mode="nearest")
        weights = self.weights(self.up(torch.cat([raised, quarter], 1)))
        weights = F.interpolate(weights, size=pixel.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = (weights[:, :-1] * pixel).sum(1) + weights[:, -1]
        return logits


class ReferringNetwork(nn.Module):
    """Tower and decoder together.

    Attributes:
        shape: its numbers; side: the picture side it looks at.
    """

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape or Shape()
        self.side = self.shape.side
        self.tower = DenseTower(self.shape).requires_grad_(False)
        self.decoder = Decoder(self.shape)

    def forward(self, pixels: Tensor, phrases: Tensor, owner: Tensor | None = None) -> Tensor:
        """Pixels [B,3,S,S] in 0..1 and unit embeddings [P,text] -> logits [P,S,S]; without `owner` all are of picture 0."""
        seen = pixels * 2 - 1
        with torch.no_grad():
            activations = self.tower(seen)
        if owner is None:
            owner = torch.zeros(len(phrases), dtype=torch.long, device=pixels.device)
        return self.decoder.answer(self.decoder.look(seen, activations), phrases, owner)


def make_network(shape: Shape | Mapping[str, Any], clip: Mapping[str, Tensor]) -> ReferringNetwork:
    """A network whose tower holds the weights of the `CLIPModel` state `clip` and whose decoder is fresh."""
    network = ReferringNetwork(shape if isinstance(shape, Shape) else Shape(**shape))
    network.tower.load_clip(clip)
    return network
