"""Background reconstruction against weighted least squares in closed form, and what must never happen to the decoder."""

from __future__ import annotations

import math

import pytest
import tiny_models
import torch
from torch import Tensor, nn

from retouch_core.editing.decoder_opt import BACKGROUND, RATES, STEPS, reconstruct_background
from retouch_core.models.diffusers_editor import DiffusersEditor
from retouch_core.models.latent_decoder import LatentDecoder


class Blocks(nn.Module):
    """Every latent cell is a pixel, and three linear combinations of its channels are the colour."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.colour = nn.Linear(channels, 3)
        nn.init.orthogonal_(self.colour.weight)  # else a latent would have to go far, and slowly
        self.register_buffer("lift", torch.tensor(0.25))

    def forward(self, latents: Tensor) -> Tensor:
        return self.colour(latents.movedim(1, -1)) + self.lift


def setting(count: int = 1, side: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(count, 4, side, side, generator=generator)
    edited = torch.rand(count, side, side, 3, generator=generator)
    source = torch.rand(1, side, side, 3, generator=generator)
    mask = torch.zeros(1, side, side)
    mask[:, 2:5, 3:7] = 1
    mask[:, 5, 3:7] = 0.5
    return latents, edited, source, mask


def tiny_autoencoder() -> nn.Module:
    from diffusers import AutoencoderTiny

    torch.manual_seed(1)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


def test_the_published_numbers_are_the_defaults():
    assert STEPS == 75
    assert RATES == {"weights": 1e-4, "latent": 0.1}
    assert BACKGROUND == 100


def test_fitted_weights_approach_the_weighted_least_squares_solution():
    latents, edited, source, mask = setting()
    decoder = Blocks()
    found = reconstruct_background(decoder, latents, edited, source, mask, steps=3000, rate=0.01)
    # Minimise |m (Az - e)|^2 + 100 |(1 - m)(Az - s)|^2 over A and its bias, pixel by pixel.
    m = mask[0].double().reshape(-1, 1)
    rows = torch.cat([latents[0].double().flatten(1).T, torch.ones(64, 1, dtype=torch.float64)], 1)
    left = torch.cat([m * rows, 10 * (1 - m) * rows])
    right = torch.cat(
        [m * edited[0].double().reshape(-1, 3), 10 * (1 - m) * source[0].double().reshape(-1, 3)]
    )
    best = rows @ torch.linalg.lstsq(left, right).solution
    torch.testing.assert_close(found.image[0].double(), best.reshape(8, 8, 3).clamp(0, 1), rtol=0, atol=2e-3)


def test_a_fitted_latent_shows_what_is_wanted_on_both_sides():
    latents, edited, source, mask = setting()
    found = reconstruct_background(
        Blocks(), latents, edited, source, mask, mode="latent", steps=1500, rate=0.005
    )
    m = mask[..., None]
    # Four numbers a pixel can show any colour; where the mask is 0.5 the weights are 0.25 and 25.
    weight = m**2 / (m**2 + 100 * (1 - m) ** 2)
    torch.testing.assert_close(found.image, weight * edited + (1 - weight) * source, rtol=0, atol=0.02)
    assert float(found.after) < 1e-3 < float(found.before)


@pytest.mark.parametrize("mode", ["weights", "latent"])
@pytest.mark.parametrize("inference", [False, True], ids=["plain", "inference mode"])
def test_the_background_improves_and_no_weight_changes(mode: str, inference: bool):
    with torch.inference_mode(inference):
        vae = tiny_autoencoder().requires_grad_(False)
        decoder = LatentDecoder(vae)
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        source = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
        mask = torch.zeros(1, 16, 16)
        mask[:, 4:12, 4:12] = 1
        edited = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(1))
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
        found = reconstruct_background(
            decoder,
            latents,
            edited,
            source,
            mask,
            mode=mode,
            steps=20,
            rate=3e-3 if mode == "weights" else None,
        )
    assert (found.after < found.before).all()
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert found.image.shape == (2, 16, 16, 3)
    assert 0 <= float(found.image.min()) <= float(found.image.max()) <= 1


def test_the_weights_survive_a_cancelled_run():
    class Stop(Exception): ...

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Stop

    latents, edited, source, mask = setting()
    decoder = Blocks()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    with pytest.raises(Stop):
        reconstruct_background(decoder, latents, edited, source, mask, callback=stop)
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())


def test_candidates_are_fitted_alone_and_progress_counts_all_of_them():
    latents, edited, source, mask = setting(3)
    seen: list[tuple[int, int]] = []
    together = reconstruct_background(
        Blocks(), latents, edited, source, mask, steps=4, callback=lambda *at: seen.append(at)
    )
    assert seen == [(k + 1, 12) for k in range(12)]
    alone = reconstruct_background(Blocks(), latents[1:2], edited[1:2], source, mask, steps=4)
    torch.testing.assert_close(together.image[1:2], alone.image, rtol=0, atol=0)


def test_half_precision_weights_are_fitted_in_full_precision():
    latents, edited, source, mask = setting()
    decoder = Blocks().to(torch.bfloat16)
    found = reconstruct_background(decoder, latents, edited, source, mask, steps=60)
    assert float(found.after) < float(found.before)
    assert found.image.dtype == torch.float32 and decoder.colour.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("tiny", [False, True], ids=["KL", "tiny"])
def test_the_decoding_half_equals_the_editors_decoding(tiny: bool):
    editor = DiffusersEditor(**tiny_models.parts(tiny_vae=tiny))
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        mine = LatentDecoder(editor.vae)(latents)
    torch.testing.assert_close(mine.clamp(0, 1), editor.decode(latents), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mode": "both"}, ValueError, "mode must be one of weights, latent, got 'both'"),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"rate": -1.0}, ValueError, "rate must be above 0, got -1.0"),
        ({"background": math.nan}, ValueError, "background must be a number of at least 0, got nan"),
        (
            {"decoder": lambda z: z},
            TypeError,
            "decoder must be a torch module to fit its weights, got function",
        ),
        ({"decoder": 3}, TypeError, "decoder must be a module or a function, got int"),
        ({"decoder": nn.Identity()}, ValueError, "decoder Identity has no weights"),
        (
            {"latents": torch.zeros(4, 8, 8)},
            ValueError,
            r"latents must have shape \[m,C,h,w\], got \[4, 8, 8\]",
        ),
        (
            {"edited": torch.zeros(2, 8, 8, 3)},
            ValueError,
            r"edited must have shape \[1,H,W,3\], got \[2, 8, 8, 3\]",
        ),
        ({"source": torch.zeros(1, 9, 8, 3)}, ValueError, "must share one height and width"),
        ({"mask": torch.full((1, 8, 8), 2.0)}, ValueError, r"mask must lie in 0\.\.1, got \[2, 2\]"),
        ({"mask": torch.zeros(3, 8, 8)}, ValueError, "mask has batch 3 for 1 candidates"),
    ],
)
def test_bad_input(changes: dict, error: type[Exception], message: str):
    latents, edited, source, mask = setting()
    given = {
        "decoder": Blocks(),
        "latents": latents,
        "edited": edited,
        "source": source,
        "mask": mask,
    } | changes
    with pytest.raises(error, match=message):
        reconstruct_background(**given)


def test_a_decoder_of_another_size_or_with_nan_says_so():
    latents, edited, source, mask = setting()

    class Grown(Blocks):
        def forward(self, latents: Tensor) -> Tensor:
            return super().forward(latents).repeat(1, 2, 2, 1)

    with pytest.raises(ValueError, match=r"decoder gave \[1, 16, 16, 3\] for a picture of \[1, 8, 8, 3\]"):
        reconstruct_background(Grown(), latents, edited, source, mask)
    with pytest.raises(FloatingPointError, match="the loss became nan at step 1 of 75"):
        reconstruct_background(Blocks(), latents * math.nan, edited, source, mask)
