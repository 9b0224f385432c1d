"""Prompts as the text towers of Stable Diffusion read them: one tower, or the two of SDXL in a single tensor.

Guidance, candidates and batches stack and split conditionings along the first axis and know nothing else of them
(`editing.guidance`), so everything that belongs to a prompt travels in one tensor [B,T+R,D]: the T tokens, and behind
them, where the model wants a vector of the whole prompt, R rows that hold its P numbers and zeros (SDXL: 77 + 1 rows of
2048, P = 1280). `packed` and `unpacked` are exact. What does not depend on the prompt, such as SDXL's sizes, is not in it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..tensors.checks import InputWarning

LAST_BUT_ONE = -2
"""Which hidden state SDXL reads of both towers (Podell et al. 2023, section 2.1; StableDiffusionXLPipeline.encode_prompt)."""


def packed(tokens: Tensor, pooled: Tensor) -> Tensor:
    """Tokens [B,T,D] and one vector a prompt [B,P] -> [B,T+R,D], R = ceil(P/D), in the dtype of the tokens."""
    batch, _, width = tokens.shape
    padded = functional.pad(pooled, (0, -pooled.shape[1] % width))
    return torch.cat([tokens, padded.reshape(batch, -1, width).to(tokens)], 1)


def unpacked(conditioning: Tensor, pooled: int) -> tuple[Tensor, Tensor]:
    """`packed` undone: [B,T+R,D] -> tokens [B,T,D] and vectors [B,P], P = `pooled`.

    Raises:
        ValueError: a conditioning that is not longer than the rows of its vector.
    """
    batch, rows, width = conditioning.shape
    of_vector = -(-pooled // width)
    if rows <= of_vector:
        raise ValueError(
            f"conditioning has {rows} rows, but this model's has more than {of_vector}; use the editor's own encode_prompts"
        )
    tokens, vector = conditioning.split([rows - of_vector, of_vector], 1)
    return tokens, vector.reshape(batch, -1)[:, :pooled]


class PromptEncoder:
    """One text tower, or two whose tokens are laid side by side.

    Attributes:
        networks: the towers.
        width: D, numbers a token.
        pooled: P, numbers of the vector of the whole prompt, or 0 for one tower.
        length: T, tokens a prompt.
        zero_empty: whether an empty prompt is all zeros, not what the towers say of it.
    """

    def __init__(self, towers: Sequence[Any], tokenizers: Sequence[Any], *, zero_empty: bool = False) -> None:
        """Take the towers and their tokenizers.

        Args:
            towers: a CLIPTextModel, whose last hidden state counts, or that and a CLIPTextModelWithProjection, of which
                the last but one counts and the second's projection is the vector.
            tokenizers: as many.
            zero_empty: as the attribute; what SDXL's pipeline does without a negative prompt
                (`force_zeros_for_empty_prompt`).

        Raises:
            ValueError: another number of towers, or tokenizers that do not go with them.
        """
        self.networks, self.tokenizers = tuple(towers), tuple(tokenizers)
        if not 1 <= len(self.networks) <= 2 or len(self.networks) != len(self.tokenizers):
            raise ValueError(
                f"{len(self.networks)} text encoders with {len(self.tokenizers)} tokenizers were given; "
                "use one of each, or two of each for SDXL"
            )
        self.zero_empty = zero_empty
        self.width = sum(int(tower.config.hidden_size) for tower in self.networks)
        self.pooled = int(self.networks[1].config.projection_dim) if len(self.networks) == 2 else 0
        self.length = min(
            *(int(tokenizer.model_max_length) for tokenizer in self.tokenizers),
            *(int(tower.config.max_position_embeddings) for tower in self.networks),
        )

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> [B,T,D], or [B,T+R,D] with the vector (`packed`), in float32 and on their device.

        A prompt that is longer than T tokens is cut, with a warning.
        """
        prompts = list(prompts)
        self._warn_of_cuts(prompts)
        if len(self.networks) == 1:
            return self._read(0, prompts).last_hidden_state.float()
        read = [self._read(k, prompts) for k in range(2)]
        tokens = torch.cat([out.hidden_states[LAST_BUT_ONE].float() for out in read], -1)
        made = packed(tokens, read[1].text_embeds.float())
        if self.zero_empty:
            made[[not prompt for prompt in prompts]] = 0
        return made

    def _read(self, which: int, prompts: list[str]) -> Any:
        """What a tower makes of the prompts."""
        tower, tokenizer = self.networks[which], self.tokenizers[which]
        tokens = tokenizer(
            prompts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        device = next(tower.parameters()).device
        takes_mask = getattr(tower.config, "use_attention_mask", False)
        attention = tokens.attention_mask.to(device) if takes_mask else None
        more = {"output_hidden_states": True} if len(self.networks) > 1 else {}
        return tower(tokens.input_ids.to(device), attention_mask=attention, **more)

    def _warn_of_cuts(self, prompts: list[str]) -> None:
        """Say which prompts are too long; towers that stand side by side count alike."""
        whole = self.tokenizers[0](prompts, padding=False, truncation=False).input_ids
        for prompt, ids in zip(prompts, whole, strict=True):
            if len(ids) > self.length:
                warnings.warn(
                    f"prompt {prompt!r} has {len(ids)} tokens and was cut to {self.length}; say it in fewer words",
                    InputWarning,
                    stacklevel=4,
                )
