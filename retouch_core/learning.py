"""The way of learnable regions (S01): boxes that are edited, of which the best is kept; no mask and no segmenter."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .editing.box_editor import BoxEditor
from .models.clip_attention import ClipTower, tower_of
from .models.clip_scorer import ClipScorer
from .models.protocols import Attention, Editor, Scorer
from .ranking.rank import Ranking, rank
from .recipes import Recipe
from .regions.learnable.learn import Learned, Settings, learn_regions
from .regions.search import Found
from .tensors.regions import Regions


def learn(
    image: Tensor,
    caption: str,
    prompt: str,
    settings: Recipe,
    *,
    editor: Editor,
    scorer: Scorer,
    seed: int,
    attention: Attention | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> tuple[Learned, Ranking]:
    """The best edit of each of `settings.candidates` anchors in IMAGE [1,H,W,3], and their order.

    Args:
        caption: what is there now; may be "". prompt: what shall be there.
        scorer: whose image tower judges the edits; a `ClipScorer`.
        attention: where to look; None takes that tower.
        tell: called with what is done and how much there is, boxes or steps of training.

    Raises:
        TypeError: a scorer without an image tower. ValueError: as `learn_regions`.
    """
    rankings: list[Ranking] = []

    def choose(source: Tensor, made: Tensor) -> tuple[Tensor, int]:
        found = rank(source, made, None, scorer, prompt, mode=settings.rank_mode)
        rankings.append(found)
        return found.scores, found.best

    tower = tower_for(scorer)
    found = learn_regions(
        image,
        prompt,
        caption,
        attention=attention or tower,
        perception=tower,
        scorer=scorer,
        edit=BoxEditor(
            editor,
            prompt,
            steps=settings.steps,
            scale=settings.scale,
            strength=settings.strength,
            seed=seed,
        ),
        settings=Settings(
            settings.candidates,
            settings.sizes,
            mode=settings.learn_mode,
            template=settings.learn_template,
            seed=seed,
        ),
        choose=choose,
        progress=tell,
    )
    return found, rankings[-1]


def as_found(learned: Learned, image: Tensor, caption: str) -> Found:
    """The boxes as regions, the winner selected."""
    size = (image.shape[1], image.shape[2])
    regions = Regions(learned.masks, learned.scores, size, picture=image)
    regions = regions.traced("learn_region", **learned.numbers())
    selected = learned.masks.new_zeros(len(learned.masks))
    selected[learned.winner] = True
    return Found(regions, selected, True, caption, None, notes=learned.notes)


def tower_for(scorer: Scorer) -> ClipTower:
    """The image tower through which learnable regions look.

    Raises:
        TypeError: a scorer without one.
    """
    return tower_of(check_tower(scorer))


def check_tower(scorer: Scorer) -> ClipScorer:
    """The scorer, if it has an image tower through which learnable regions can look.

    Raises:
        TypeError: it has none.
    """
    if not isinstance(scorer, ClipScorer):
        raise TypeError(
            f"scorer is a {type(scorer).__name__}, but learnable regions look through a ClipScorer's image tower; "
            "use one, or a recipe that finds entities"
        )
    return scorer
