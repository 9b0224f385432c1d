"""One contact sheet of a retouch: input, numbered regions, mask, best, and every candidate with its score."""

from __future__ import annotations

import colorsys
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from .pictures import to_pillow
from .tensors.regions import Regions, mask_boxes

PAPER = (24, 25, 28)
INK = (236, 237, 240)
FAINT = (150, 153, 160)
ACCENT = (255, 184, 51)

SCORED_LABELS = 6
"""How many regions show their score beside their number, when none or few are selected; more would hide the picture."""

LEGIBLE = 512
"""Longer side, in pixels, to which `region_overlay` enlarges small pictures so that the numbers can be read."""

GLYPHS = frozenset(map(chr, range(32, 127))) | frozenset("“”‘’·…")
"""What Pillow's built-in font can draw."""

SPELT = str.maketrans(
    {"→": ">", "–": "-", "—": "-", "−": "-", "×": "x", "ß": "ss", "æ": "ae", "ø": "o", "ł": "l"}
)


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet with a caption under it; `marked` frames it."""

    picture: Image.Image
    caption: str = ""
    marked: bool = False


# ----------------------------------------------------------------------------------------------- the sheet


def contact_sheet(
    source: Tensor,
    regions: Regions,
    selected: Tensor | None,
    mask: Tensor,
    candidates: Tensor | Sequence[Tensor],
    scores: Tensor | None,
    best: int | None,
    title: str = "",
    tile: int = 256,
) -> Image.Image:
    """Draw everything that one retouch looked at and made.

    The first row is input, numbered regions with scores (selected ones bright), mask and best; the candidates follow
    with their scores, the best one framed. Regions are numbered from 1, as in the printed report.

    Args:
        source: IMAGE [1,H,W,3].
        regions: what was found; N = 0 is legal.
        selected: bool [N], the regions that were edited, or None.
        mask: the composite MASK [1,H,W].
        candidates: m pictures [H,W,3]; m = 0 is legal and means that the source came back.
        scores: [m], higher is better, or None.
        best: index of the chosen candidate, or None.
        title: a line above the pictures.
        tile: longer side of each picture on the sheet, in pixels.
    """
    count = len(candidates)
    chosen = candidates[best] if count and best is not None else source[0]
    first = [
        Panel(fitted(source[0], tile), "input"),
        Panel(_region_picture(source[0], regions, selected, tile), _region_caption(regions, selected)),
        Panel(fitted(mask[0][..., None].expand(-1, -1, 3), tile), _mask_caption(mask)),
        Panel(
            fitted(chosen, tile), "best" if count else "result · unchanged", bool(count) and best is not None
        ),
    ]
    rest = [
        Panel(fitted(candidates[k], tile), _candidate_caption(k, scores, k == best), k == best)
        for k in range(count)
    ]
    rows = [first] + [rest[start : start + len(first)] for start in range(0, count, len(first))]
    return panel_sheet(rows, title, tile=tile)


def region_overlay(image: Tensor, regions: Regions, selected: Tensor | None = None) -> Tensor:
    """Numbered, outlined regions over the picture as IMAGE [1,h,w,3].

    h, w are those of `image` [1,H,W,3], or, for small pictures, a whole multiple that makes the numbers legible.
    """
    longer = max(image.shape[1:3])
    size = longer * max(1, math.ceil(LEGIBLE / longer))
    drawn = _region_picture(image[0], regions, selected, size)
    return torch.from_numpy(np.asarray(drawn, dtype=np.float32) / 255)[None]


def panel_sheet(rows: Sequence[Sequence[Panel]], title: str = "", *, tile: int = 256) -> Image.Image:
    """Lay panels out in rows on dark paper; `tile` sets the scale of text and gaps."""
    unit = max(tile / 256, 0.5)
    margin, gap, frame = round(20 * unit), round(14 * unit), max(2, round(3 * unit))
    caption_font, title_font = _font(14 * unit), _font(21 * unit)
    cell_width = max([panel.picture.width for row in rows for panel in row] + [round(150 * unit)])
    columns = max([len(row) for row in rows] + [1])
    width = 2 * margin + columns * cell_width + (columns - 1) * gap

    titles = _wrapped(title, title_font, width - 2 * margin, 2)
    captions = [[_wrapped(panel.caption, caption_font, cell_width, 2) for panel in row] for row in rows]
    line, title_line = round(19 * unit), round(29 * unit)
    title_height = len(titles) * title_line + (gap // 2 if titles else 0)
    picture_heights = [max([panel.picture.height for panel in row] + [1]) for row in rows]
    row_heights = [
        height + round(7 * unit) + line * max([len(lines) for lines in text] + [0])
        for height, text in zip(picture_heights, captions, strict=True)
    ]
    height = 2 * margin + title_height + sum(row_heights) + gap * (len(rows) - 1)

    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, words in enumerate(titles):
        draw.text((margin, margin + number * title_line), words, font=title_font, fill=INK)
    top = margin + title_height
    for row, text, picture_height, row_height in zip(
        rows, captions, picture_heights, row_heights, strict=True
    ):
        for column, (panel, lines) in enumerate(zip(row, text, strict=True)):
            left = margin + column * (cell_width + gap)
            x = left + (cell_width - panel.picture.width) // 2
            y = top + (picture_height - panel.picture.height) // 2
            sheet.paste(panel.picture, (x, y))
            if panel.marked:
                box = (
                    x - frame,
                    y - frame,
                    x + panel.picture.width + frame - 1,
                    y + panel.picture.height + frame - 1,
                )
                draw.rectangle(box, outline=ACCENT, width=frame)
            for number, words in enumerate(lines):
                place = (left + cell_width / 2, top + picture_height + round(7 * unit) + number * line)
                colour = ACCENT if panel.marked else FAINT
                draw.text(place, words, font=caption_font, fill=colour, anchor="ma")
        top += row_height + gap
    return sheet


def _candidate_caption(index: int, scores: Tensor | None, is_best: bool) -> str:
    score = "" if scores is None else f" · {float(scores[index]):.3f}"
    return f"candidate {index + 1}{score}{' · best' if is_best else ''}"


def _region_caption(regions: Regions, selected: Tensor | None) -> str:
    if not len(regions):
        return "no regions"
    plural = "" if len(regions) == 1 else "s"
    if selected is None:
        return f"{len(regions)} region{plural}"
    return f"{int(selected.sum())} of {len(regions)} region{plural} selected"


def _mask_caption(mask: Tensor) -> str:
    share = 100 * float((mask > 0).float().mean())
    if share == 0:
        return "mask · empty"
    return f"mask · {share:.1f} % of the picture" if share < 10 else f"mask · {share:.0f} % of the picture"


# ------------------------------------------------------------------------------------------------- regions


def _region_picture(image: Tensor, regions: Regions, selected: Tensor | None, size: int) -> Image.Image:
    """The picture [H,W,3] with its regions, its longer side `size` pixels."""
    base = fitted(image, size)
    if not len(regions):
        return base
    shape = (base.height, base.width)
    masks = interpolate(regions.masks[:, None].float(), size=shape, mode="nearest-exact")[:, 0] > 0.5
    bright = torch.ones(len(regions), dtype=torch.bool) if selected is None else selected.bool().cpu()
    stroke = max(1, round(size / 128))

    pixels = torch.from_numpy(np.array(base, dtype=np.float32))
    if selected is not None:
        grey = pixels.mean(-1, keepdim=True)
        others = ~masks[bright].any(0)[..., None]
        pixels = torch.where(others, 0.7 * (0.5 * pixels + 0.5 * grey), pixels)
    for index in sorted(range(len(regions)), key=lambda i: bool(bright[i])):
        mask, chosen = masks[index].cpu(), bool(bright[index])
        colour = torch.tensor(_hue(_number(regions, index)), dtype=torch.float32)
        tint = 0.0 if chosen and selected is not None else 0.15
        pixels = torch.where(mask[..., None], (1 - tint) * pixels + tint * colour, pixels)
        width = stroke if selected is None or not chosen else 2 * stroke
        rim = mask & ~_eroded(mask, width)
        pixels = torch.where(rim[..., None], colour if chosen else 0.35 * pixels + 0.65 * colour, pixels)
    drawn = Image.fromarray(pixels.round().clamp(0, 255).to(torch.uint8).numpy(), "RGB")
    _label(drawn, masks.cpu(), regions, bright, size)
    return drawn


def _eroded(mask: Tensor, radius: int) -> Tensor:
    """Bool [H,W] shrunk by `radius` pixels; the picture's border does not count as an edge to shrink from."""
    outside = (~mask)[None, None].float()
    return max_pool2d(outside, 2 * radius + 1, stride=1, padding=radius)[0, 0] < 0.5


def _hue(index: int) -> tuple[float, float, float]:
    """Colours 0..255 that stay apart however many there are: steps of the golden ratio around the wheel."""
    hue = (0.53 + index * 0.61803398875) % 1
    red, green, blue = colorsys.hls_to_rgb(hue, 0.62, 0.95)
    return 255 * red, 255 * green, 255 * blue


def _name(regions: Regions, index: int) -> str:
    """What is written on a region: its label, which it keeps through a search, or its place in the list from 1."""
    return regions.labels[index] if regions.labels is not None else f"{index + 1}"


def _number(regions: Regions, index: int) -> int:
    """From which its colour comes, so that a region that keeps its label keeps its colour."""
    name = _name(regions, index)
    return int(name) - 1 if name.isdigit() else index


def _label(drawn: Image.Image, masks: Tensor, regions: Regions, bright: Tensor, size: int) -> None:
    """Number every region at its innermost point, with scores on the selected and the best-scored ones."""
    scores = regions.scores
    by_score = (
        list(range(len(regions))) if scores is None else scores.argsort(descending=True, stable=True).tolist()
    )
    few_selected = bright.sum() <= SCORED_LABELS
    scored = set(by_score[:SCORED_LABELS]) | ({i for i in by_score if bright[i]} if few_selected else set())
    font = _font(max(11.0, size / 20))
    draw = ImageDraw.Draw(drawn, "RGBA")
    taken: list[tuple[float, float, float, float]] = []
    # The ones that matter are placed first and stay where they belong; later ones give way.
    for index in sorted(by_score, key=lambda i: (not bright[i], i not in scored)):
        text = _name(regions, index)
        if scores is not None and index in scored:
            text += f"  {float(scores[index]):.2f}"
        width, height = draw.textlength(text, font=font) + 0.8 * font.size, 1.45 * font.size
        x, y = _label_place(masks[index], width, height)
        may_move = bool(bright[index]) or index in scored
        box = _free_place(
            x, y, width, height, drawn.size, taken, (0, 1.1, -1.1, 2.2, -2.2) if may_move else (0,)
        )
        if box is None:
            continue
        taken.append(box)
        colour = tuple(int(c) for c in _hue(_number(regions, index)))
        fill, ink = (
            ((*colour, 255), (12, 12, 14, 255)) if bright[index] else ((12, 12, 14, 190), (*colour, 255))
        )
        draw.rounded_rectangle(box, radius=height / 2, fill=fill)
        draw.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), text, font=font, fill=ink, anchor="mm")


def _label_place(mask: Tensor, width: float, height: float) -> tuple[float, float]:
    """(x, y) of the middle of a label: deep inside the region, or above or below it where it would be hidden."""
    x, y, radius = _innermost(mask)
    if 2 * radius >= width or not mask.any():
        return x, y
    left, top, right, bottom = mask_boxes(mask[None])[0].tolist()
    above, below = top - 0.6 * height, bottom + 0.6 * height
    return (left + right) / 2, above if above > height / 2 else below


def _innermost(mask: Tensor) -> tuple[float, float, float]:
    """(x, y, distance to the edge) of a pixel deepest inside bool [H,W]; the picture's middle for an empty mask."""
    height, width = mask.shape
    scale = max(1, max(height, width) // 64)
    inside = max_pool2d(mask[None, None].float(), scale, ceil_mode=True) > 0
    depth = torch.zeros_like(inside, dtype=torch.float32)
    while inside.any() and not inside.all():
        depth += inside
        inside = max_pool2d((~inside).float(), 3, stride=1, padding=1) < 0.5
    depth += inside
    if not depth.any():
        return width / 2, height / 2, 0.0
    rows, columns = (depth[0, 0] == depth.max()).nonzero(as_tuple=True)
    middle = int(((rows - rows.float().mean()) ** 2 + (columns - columns.float().mean()) ** 2).argmin())
    return (
        (float(columns[middle]) + 0.5) * scale,
        (float(rows[middle]) + 0.5) * scale,
        float(depth.max()) * scale,
    )


def _free_place(
    x: float,
    y: float,
    width: float,
    height: float,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
    shifts: Sequence[float],
) -> tuple[float, float, float, float] | None:
    """A box at (x, y), or shifted by some of its heights, that lies in the picture and touches no earlier box."""
    for shift in shifts:
        left = min(max(x - width / 2, 1), size[0] - width - 1)
        top = min(max(y - height / 2 + shift * height, 1), size[1] - height - 1)
        box = (left, top, left + width, top + height)
        if left >= 0 and top >= 0 and not any(_touch(box, other) for other in taken):
            return box
    return None


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# ------------------------------------------------------------------------------------- pictures and letters


def fitted(image: Tensor, size: int) -> Image.Image:
    """[H,W,3] in 0..1 as a picture whose longer side is `size`; small ones keep their pixels visible."""
    picture = to_pillow(image)
    scale = size / max(picture.size)
    target = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(target, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


@lru_cache(maxsize=16)
def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow has no FreeType and cannot draw text; install Pillow from its wheels")
    return font


def drawable(text: str) -> str:
    """`text` in letters that the built-in font has: accents dropped, other scripts as question marks."""
    spelt = unicodedata.normalize("NFKD", text.translate(SPELT))
    plain = (c for c in spelt if not unicodedata.combining(c))
    return " ".join("".join(c if c in GLYPHS else "?" if not c.isspace() else " " for c in plain).split())


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, lines: int) -> list[str]:
    """At most `lines` lines that fit `width`; what does not fit ends in an ellipsis."""
    words, done = drawable(text).split(), [""]
    for word in words:
        longer = f"{done[-1]} {word}".strip()
        if font.getlength(longer) <= width or not done[-1]:
            done[-1] = longer
        else:
            done.append(word)
    kept = done[:lines]
    if len(done) > lines:
        kept[-1] += " …"
    return [_shortened(line, font, width) for line in kept if line]


def _shortened(line: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(line) <= width:
        return line
    line = line.removesuffix(" …")
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
