"""RetouchLearnRegion: where to edit, found by editing (methods.md 7)."""

from __future__ import annotations

import json
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..retouch_core.models.protocols import Attention as AttentionRole
from ..retouch_core.models.protocols import Scorer as ScorerRole
from ..retouch_core.ranking.rank import rank
from ..retouch_core.regions.learnable.learn import COUNT, MODES, TEMPLATE, Learned, Settings, learn_regions
from ..retouch_core.regions.learnable.proposals import MAX_SIZES, SIZES
from ..retouch_core.regions.learnable.training import Schedule
from ..retouch_core.report import plain
from ..retouch_core.tensors.checks import check_image, check_text
from ..retouch_core.tensors.regions import Regions as FoundRegions
from . import _conditioning, _host
from ._box_editor import BoxEditor, tower_of_scorer
from ._regions import check_number, overlay
from ._repaint import MAX_CFG, MAX_STEPS, Widgets
from ._sampling import SEEDS
from ._types import Attention, Regions, Scorer, schema

MAX_ANCHORS = 256
MAX_EPOCHS = 1000


class RetouchLearnRegion(io.ComfyNode):
    """Boxes around what the scorer's image tower attends to, edited and judged by text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets; KSampler's by their names and in their order."""
        samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
        return schema(
            node_id="RetouchLearnRegion",
            display_name="Learn Region",
            description="Finds where to edit without a mask: boxes around what draws attention are repainted, and the one "
            "whose edit fits the prompt best is kept.",
            search_aliases=["learnable regions", "mask-free", "dino", "auto region", "box", "text retouch"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="The picture, one."),
                io.Model.Input("model", tooltip="Repaints the boxes; an inpainting checkpoint suits best."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Conditioning.Input("target", tooltip="The prompt, encoded for the model."),
                io.Conditioning.Input(
                    "empty",
                    optional=True,
                    tooltip="The negative prompt, usually blank; needed where cfg is not 1.",
                ),
                Scorer.Input(
                    "scorer",
                    tooltip="Says how well an edit fits the words, and where to look unless attention is connected.",
                ),
                io.String.Input("prompt", default="", tooltip="What shall be there, such as 'a blue truck'."),
                io.String.Input(
                    "caption",
                    default="",
                    tooltip="What is there now, in a word or two. Blank: the direction of the change is not judged.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEEDS - 1,
                    control_after_generate=True,
                    tooltip="Noise of every edit, and the draws of views and training.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=MAX_STEPS, tooltip="Sampling steps of each edit."
                ),
                io.Float.Input(
                    "cfg",
                    default=3.0,
                    min=0.0,
                    max=MAX_CFG,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly to follow the target; 1 needs no empty and is fastest.",
                ),
                io.Combo.Input(
                    "sampler_name", options=samplers, default="euler", tooltip="Any sampler of the host."
                ),
                io.Combo.Input(
                    "scheduler",
                    options=schedulers,
                    default="simple",
                    tooltip="How noise falls over the steps.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 repaints the box; less keeps more of what is there.",
                ),
                io.Int.Input(
                    "anchors",
                    default=COUNT,
                    min=1,
                    max=MAX_ANCHORS,
                    tooltip="How many places to try: the patches that draw most attention, two patches apart.",
                ),
                io.Int.Input(
                    "sizes",
                    default=SIZES,
                    min=1,
                    max=MAX_SIZES,
                    tooltip="Boxes at each place, from an eighth to seven eighths of the side.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="auto",
                    tooltip="exhaustive: edit every box once, and take the best. reinforce, gumbel_st: train the paper's "
                    "network, which asks for at most as many. auto: exhaustive up to 64 boxes.",
                ),
                io.Int.Input(
                    "epochs",
                    default=5,
                    min=1,
                    max=MAX_EPOCHS,
                    advanced=True,
                    tooltip="Length of the training, ten steps each; unused by exhaustive.",
                ),
                io.String.Input(
                    "template",
                    default=TEMPLATE,
                    advanced=True,
                    tooltip="Around the prompt, for the scorer; {} stands for it.",
                ),
                Attention.Input(
                    "attention",
                    optional=True,
                    tooltip="Where to look, of Load Attention. Left out: what the scorer's image tower attends to.",
                ),
            ],
            outputs=[
                Regions.Output("regions", tooltip="The best box of each place, with its quality score."),
                io.Mask.Output("mask", tooltip="The box of the best edit."),
                io.Image.Output("best", tooltip="The best edit, finished."),
                io.Image.Output("edits", tooltip="The edit of every place."),
                io.String.Output("report", tooltip="Boxes, scores and losses, and what was noticed."),
            ],
        )

    @classmethod
    @torch.no_grad()
    def execute(
        cls,
        image: Tensor,
        model: Any,
        vae: Any,
        target: Any,
        scorer: Any,
        prompt: str,
        caption: str = "",
        seed: int = 0,
        steps: int = 20,
        cfg: float = 3.0,
        sampler_name: str = "euler",
        scheduler: str = "simple",
        denoise: float = 1.0,
        anchors: int = COUNT,
        sizes: int = SIZES,
        mode: str = "auto",
        epochs: int = 5,
        template: str = TEMPLATE,
        empty: Any = None,
        attention: Any = None,
    ) -> io.NodeOutput:
        """Attention to boxes, boxes to edits, edits to a choice."""
        widgets = Widgets(seed, steps, cfg, sampler_name, scheduler, denoise, 0.0, 1, "masked")
        check_number(anchors, "anchors", 1, MAX_ANCHORS, whole=True)
        check_number(epochs, "epochs", 1, MAX_EPOCHS, whole=True)
        settings = Settings(
            anchors,
            sizes,
            mode=mode,
            schedule=Schedule(epochs),
            template=template,
            seed=seed,
        )
        picture = check_image(_host.to_work(_host.rgb(image)), batch=1)
        prompt = check_text(prompt, "prompt")
        _conditioning.check_conditioning(target, "target")
        if empty is not None:
            _conditioning.check_conditioning(empty, "empty")
        if attention is not None and not isinstance(attention, AttentionRole):
            raise TypeError(
                f"attention must be of Load Attention, got {type(attention).__name__}; connect that node, or nothing"
            )
        if not isinstance(scorer, ScorerRole):
            raise TypeError(
                f"scorer must be a scorer, got {type(scorer).__name__}; connect Load Embedded Models, Load Scorer or Scorer from CLIP"
            )

        def choose(source: Tensor, made: Tensor) -> tuple[Tensor, int]:
            ranking = rank(source, made, None, scorer, prompt, mode="quality")
            return ranking.scores, ranking.best

        with _host.noted() as notes:
            tower = tower_of_scorer(scorer)
            found = learn_regions(
                picture,
                prompt,
                caption,
                attention=attention or tower,
                perception=tower,
                scorer=scorer,
                edit=BoxEditor(model, vae, target, empty, widgets, notes),
                settings=settings,
                choose=choose,
                progress=_host.progress(1),
            )
        edits = torch.where(found.masks[..., None], found.edited, picture)
        regions = _regions_of(found, picture)
        mask = found.masks[found.winner, None].float()
        return io.NodeOutput(
            regions,
            _host.to_wire(mask),
            _host.to_wire(edits[found.winner, None]),
            _host.to_wire(edits),
            _report(found, widgets, notes),
            ui=_host.preview(overlay(regions, torch.arange(len(regions)) == found.winner), cls),
        )


def _regions_of(found: Learned, picture: Tensor) -> FoundRegions:
    labels = tuple(str(k + 1) for k in range(len(found.boxes)))
    size = (picture.shape[1], picture.shape[2])
    regions = FoundRegions(found.masks, found.scores, size, labels, picture=picture)
    return regions.traced("learn_region", **plain(found.numbers()))


def _report(found: Learned, widgets: Widgets, notes: list[str]) -> str:
    x0, y0, x1, y1 = found.boxes[found.winner].tolist()
    said = (
        f"Box {found.winner + 1} of {len(found.boxes)}, pixels {x0}..{x1} by {y0}..{y1}, is the best of "
        f"{found.made} edits ({found.mode}); its score is {float(found.scores[found.winner]):.4f}."
    )
    values = {**vars(widgets), **found.numbers()}
    values["notes"] = list(dict.fromkeys([*notes, *found.notes]))
    return said + "\n" + json.dumps(plain(values), ensure_ascii=False)
