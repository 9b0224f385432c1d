"""How the choice of a box per anchor is learnt, or read off (methods.md 7.6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Parameter, functional

from .edits import Edits
from .proposals import box_masks

BETAS = (0.9, 0.96)
"""Of the official code's Adam."""
ENTROPY = 0.01
"""Weight of the entropy of the choice [our choice, methods.md 7.6]."""
MEMORY = 0.9
"""Share of the running mean that a new loss leaves."""

LogProbs = Callable[[], Tensor]
"""() -> log-probabilities [K,M] with gradient."""
Tell = Callable[[int], None]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: 5 epochs with Adam at 3e-3 (S01, section 4), of 10 repeats each (official code)."""

    epochs: int = 5
    repeats: int = 10
    rate: float = 3e-3
    tau: float = 1.0
    entropy: float = ENTROPY

    @property
    def steps(self) -> int:
        return self.epochs * self.repeats


@dataclass
class History:
    """Mean loss of every step that was taken."""

    losses: list[float] = field(default_factory=list)


def best_boxes(losses: Tensor) -> Tensor:
    """Index [K] of the least loss of every anchor [K,M]; NaN is none, ties take the smaller box, -1: all are NaN."""
    known = torch.isfinite(losses)
    least = losses.masked_fill(~known, torch.inf).argmin(-1)
    return torch.where(known.any(-1), least, -1)


def likeliest(log_probs: Tensor, done: Tensor) -> Tensor:
    """Index [K] of the likeliest box that is `done` bool [K,M]; -1 where none is."""
    return torch.where(done.any(-1), log_probs.masked_fill(~done, -torch.inf).argmax(-1), -1)


def sampled_objective(
    log_probs: Tensor, chosen: Tensor, losses: Tensor, baseline: Tensor, entropy: float = ENTROPY
) -> Tensor:
    """What REINFORCE descends: sum over anchors of (l - baseline) log pi of the `chosen` box, less entropy.

    Its expected gradient is that of sum pi l, pi_j (l_j - J), for every baseline (Williams 1992).

    Args:
        log_probs: [K,M] with gradient; chosen: long [K]; losses, baseline: [K]; NaN losses take no part.
    """
    taken = log_probs.gather(1, chosen[:, None])[:, 0]
    known = torch.isfinite(losses)
    push = torch.where(known, losses - baseline, torch.zeros_like(losses)) * taken
    spread = -(log_probs.exp() * log_probs).sum(-1)
    return (push - entropy * spread).sum()


def straight_through(log_probs: Tensor, noise: Tensor, tau: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gumbel-softmax (Jang et al. 2017): the hard index [K], and a one-hot [K,M] with the gradient of the soft sample.

    Args:
        log_probs: [K,M]; noise: [K,M] of the standard Gumbel distribution; tau: temperature.
    """
    soft = torch.softmax((log_probs + noise) / tau, -1)
    hard = soft.argmax(-1)
    one_hot = functional.one_hot(hard, soft.shape[-1]).to(soft)
    return hard, one_hot - soft.detach() + soft


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise."""
    uniform = torch.rand(shape, generator=generator).clamp(1e-20, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def exhaustive(edits: Edits, tell: Tell) -> None:
    """Edit every box of every anchor: the exact optimum of the paper's objective is then in the table of losses."""
    anchors, sizes = edits.boxes.shape[:2]
    edits.need([(i, j) for i in range(anchors) for j in range(sizes)], tell)


def reinforce(
    log_probs: LogProbs,
    parameters: list[Parameter],
    edits: Edits,
    schedule: Schedule,
    baseline: float,
    generator: torch.Generator,
    tell: Tell,
) -> History:
    """Sample a box per anchor, and make it likelier the more its edit beats the running mean of the losses.

    Args:
        baseline: the loss of the unedited picture, from which the running mean starts.
    """
    adam, history = _adam(parameters, schedule), History()
    mean: Tensor | None = None
    for step in range(schedule.steps):
        chosen_from = log_probs()
        if mean is None:
            mean = torch.full((len(chosen_from),), baseline)
        chosen = torch.multinomial(chosen_from.detach().exp(), 1, generator=generator)[:, 0]
        edits.need(list(enumerate(chosen.tolist())))
        losses = edits.losses["total"].gather(1, chosen[:, None])[:, 0]
        adam.zero_grad()
        sampled_objective(chosen_from, chosen, losses, mean, schedule.entropy).backward()
        adam.step()
        known = torch.isfinite(losses)
        mean = torch.where(known, MEMORY * mean + (1 - MEMORY) * losses, mean)
        history.losses.append(float(losses[known].mean()) if known.any() else float("nan"))
        tell(step + 1)
    return history


def gumbel_st(
    log_probs: LogProbs,
    parameters: list[Parameter],
    edits: Edits,
    schedule: Schedule,
    generator: torch.Generator,
    tell: Tell,
) -> History:
    """The paper's own shape: a hard box per anchor by Gumbel-softmax, and gradient through its mask alone.

    X' = m E + (1 - m) X with m = sum_j g_j box_j and E the finished edit of the hard box, without gradient: it sees
    only what adding or taking off a ring of the box would do.
    """
    adam, history = _adam(parameters, schedule), History()
    image = edits.image
    masks = box_masks(edits.boxes, (image.shape[1], image.shape[2])).to(image)
    for step in range(schedule.steps):
        chosen_from = log_probs()
        noise = gumbel_noise(tuple(chosen_from.shape), generator)
        hard, one_hot = straight_through(chosen_from, noise, schedule.tau)
        edits.need(list(enumerate(hard.tolist())))
        # Anchor by anchor into a leaf, so that only one picture's graph is held at a time.
        leaf = one_hot.detach().clone().requires_grad_()
        losses = []
        for anchor, size in enumerate(hard.tolist()):
            if not edits.done[anchor, size]:
                continue
            mask = torch.einsum("m,mhw->hw", leaf[anchor], masks[anchor])[None, :, :, None]
            pasted = mask * edits.picture(anchor, size) + (1 - mask) * image
            loss = edits.weights.total(edits.losses_of(pasted)).sum()
            loss.backward()
            losses.append(float(loss.detach()))
        adam.zero_grad()
        if leaf.grad is not None:
            one_hot.backward(leaf.grad)
            adam.step()
        history.losses.append(sum(losses) / len(losses) if losses else float("nan"))
        tell(step + 1)
    return history


def _adam(parameters: list[Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=schedule.rate, betas=BETAS)
