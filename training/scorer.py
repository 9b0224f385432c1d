"""Train the embedded scorer: a small `CLIPModel` with phrases that name things, grounds and places.

python -m training.scorer [--minutes 15] [--scenes 16000]
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from . import tokenizer
from .bundle import EMBEDDED, fingerprint, save_half
from .loop import RUNS, autocast, device, train
from .optim import Muon
from .views import jittered_views
from .world.archive import PLACES, Archive, archive
from .world.grounds import GROUND_NAMES
from .world.icons import CLASSES, COLOUR_NAMES
from .world.phrases import UNKNOWN, ground_phrase, thing_phrase, vocabulary

SIZE, PATCH, WIDTH = 64, 8, 128
BATCH, GROUNDS, STRANGERS = 160, 14, 16
"""Things, grounds, and phrases with an unknown word (true of nothing) in a batch."""
RESTORED_SHARE = 0.3
"""Share of pictures seen through the autoencoder, because ranking looks at generated pictures."""
ANY = -1
GROUND_CLASS = len(CLASSES)


def configuration() -> Any:
    """Square projection, quick GELU and an end token other than 2, so that the host's classes hold the text tower."""
    from transformers import CLIPConfig

    text = {
        "vocab_size": len(vocabulary()),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.LENGTH,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 3,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": PATCH,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)


def ids_of(words: Any, phrases: list[str]) -> Tensor:
    """Token ids [T,16], padded."""
    return words(phrases, padding="max_length", truncation=True, return_tensors="pt").input_ids


def embeddings(model: torch.nn.Module, views: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Unit embeddings of views [N,3,S,S] in 0..1 and of ids [T,16]; no attention mask, as the host passes none."""
    seen = model.visual_projection(model.vision_model(views * 2 - 1).pooler_output)  # type: ignore[operator]
    said = model.text_projection(model.text_model(ids).pooler_output)  # type: ignore[operator]
    return F.normalize(seen.float(), dim=-1), F.normalize(said.float(), dim=-1)


class Batches:
    """Views, phrases and which phrase is true of which view."""

    def __init__(self, world: Archive, restored: Tensor | None) -> None:
        self.world, self.restored = world, restored
        self.pairs = world.objects()
        self.words = tokenizer.build()
        self.rng = random.Random(0)

    def _pixels(self, scenes: Tensor) -> Tensor:
        pixels = self.world.pixels(scenes)
        if self.restored is None:
            return pixels
        swap = (torch.rand(len(scenes)) < RESTORED_SHARE) & (scenes < len(self.restored))
        pixels[swap] = self.restored[scenes[swap]].permute(0, 3, 1, 2).float() / 255
        return pixels

    def __call__(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """views [N,3,64,64], ids [T,16], truth bool [N,T], undecided bool [N,T]."""
        world, rng = self.world, self.rng
        pairs = self.pairs[torch.randint(len(self.pairs), (BATCH,))]
        scenes = torch.cat([pairs[:, 0], torch.randint(len(world), (GROUNDS,))])
        masks = torch.cat([world.masks(pairs), world.owners[scenes[BATCH:]] == 0])
        kinds = torch.multinomial(torch.tensor([0.32, 0.38, 0.3]), len(scenes), replacement=True)
        views = jittered_views(self._pixels(scenes), masks, kinds, SIZE)

        things = world.things[pairs[:, 0], pairs[:, 1]]
        seen = torch.full((len(scenes), 4), ANY)
        seen[:BATCH, :3] = things[:, :3]
        seen[BATCH:, 0], seen[BATCH:, 3] = GROUND_CLASS, world.grounds[scenes[BATCH:]]
        phrases, said = [], []
        for (name, colour, place), kind in zip(things[:, :3].tolist(), kinds.tolist(), strict=False):
            share = rng.random()
            told = [name, colour] if share < 0.5 else [name, ANY] if share < 0.78 else [ANY, colour]
            told.append(place if kind == 2 and rng.random() < 0.5 else ANY)
            phrases.append(
                thing_phrase(
                    CLASSES[told[0]] if told[0] >= 0 else None,
                    COLOUR_NAMES[told[1]] if told[1] >= 0 else None,
                    PLACES[told[2]] if told[2] >= 0 else None,
                    rng,
                )
            )
            said.append([*told, ANY])
        for ground in seen[BATCH:, 3].tolist():
            ground = ground if rng.random() < 0.7 else ANY
            phrases.append(ground_phrase(GROUND_NAMES[ground] if ground >= 0 else None, rng))
            said.append([GROUND_CLASS, ANY, ANY, ground])
        told_of = torch.tensor(said)
        agrees = (told_of[None] == ANY) | (told_of[None] == seen[:, None])
        # A phrase without a class is about a thing, so no ground fits it.
        agrees[..., 0] &= ~((told_of[None, :, 0] == ANY) & (seen[:, None, 0] == GROUND_CLASS))
        truth = agrees.all(-1)
        # Only a view of the full frame shows the place: elsewhere a phrase with a place is neither true nor false.
        undecided = agrees[..., [0, 1, 3]].all(-1) & (told_of[None, :, 2] != ANY) & (kinds != 2)[:, None]
        truth &= ~undecided

        ids = ids_of(self.words, phrases)
        strangers = ids[torch.randperm(BATCH)[:STRANGERS]].clone()
        names = {self.words.convert_tokens_to_ids(w) for w in (*CLASSES, "sphere", "crate", "donut", "plus")}
        named = torch.isin(strangers, torch.tensor(sorted(names)))
        strangers = strangers.masked_fill(named, UNKNOWN)[named.any(1)]
        nothing = torch.zeros(len(truth), len(strangers), dtype=torch.bool)
        return (
            views,
            torch.cat([ids, strangers]),
            torch.cat([truth, nothing], 1),
            torch.cat([undecided, nothing], 1),
        )


def contrast(seen: Tensor, said: Tensor, scale: Tensor, truth: Tensor, undecided: Tensor) -> Tensor:
    """Multi-positive contrastive loss: with 128 kinds of thing, several phrases of a batch are true of one view."""
    logits = (seen @ said.T * scale).masked_fill(undecided, -1e4)
    target = truth.float()
    rows = -(F.log_softmax(logits, 1) * target).sum(1) / target.sum(1).clamp(min=1)
    columns = -(F.log_softmax(logits, 0) * target).sum(0) / target.sum(0).clamp(min=1)
    floor = (
        target.sum(1).clamp(min=1).log().mean() + target.sum(0).clamp(min=1).log().sum() / truth.any(0).sum()
    )
    return (rows.mean() + columns.sum() / truth.any(0).sum() - floor) / 2


@torch.no_grad()
def restored_pictures(world: Archive, count: int) -> Tensor:
    """The first `count` scenes through the embedded autoencoder, uint8 [count,128,128,3]; cached beside the runs."""
    from diffusers import AutoencoderTiny

    cache = RUNS / f"restored_{count}_{fingerprint('vae')}.pt"
    if cache.exists():
        return torch.load(cache, weights_only=True)
    model = AutoencoderTiny.from_pretrained(EMBEDDED / "vae").float().eval().to(device())
    model = model.to(memory_format=torch.channels_last)
    parts = []
    for start in tqdm(range(0, count, 25), desc="scenes through the autoencoder"):
        pixels = world.pixels(torch.arange(start, start + 25)).to(device(), memory_format=torch.channels_last)
        with autocast():
            out = model.decode(model.encode(pixels * 2 - 1).latents).sample.float()
        parts.append((out.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())
    restored = torch.cat(parts)
    RUNS.mkdir(parents=True, exist_ok=True)
    torch.save(restored, cache)
    return restored


@torch.no_grad()
def picking(model: torch.nn.Module, world: Archive, limit: int = 150) -> dict[str, float]:
    """Share of tune scenes in which the named object is picked among the scene's objects, by what is said of it."""
    words, rng = tokenizer.build(), random.Random(1)
    right = {"both": 0, "class": 0, "colour": 0}
    tried = dict.fromkeys(right, 0)
    for scene in range(limit):
        things = world.things[scene][world.things[scene, :, 0] >= 0]
        if len(things) < 2:
            continue
        pairs = torch.stack([torch.full((len(things),), scene), torch.arange(len(things))], 1)
        state = torch.random.get_rng_state()
        torch.manual_seed(scene)
        views = torch.cat(
            [
                jittered_views(
                    world.pixels(pairs[:, 0]), world.masks(pairs), torch.full((len(things),), kind), SIZE
                )
                for kind in (0, 1)
            ]
        )
        torch.random.set_rng_state(state)
        for told in right:
            keys = {
                "both": things[:, :2].tolist(),
                "class": things[:, :1].tolist(),
                "colour": things[:, 1:2].tolist(),
            }[told]
            target = rng.randrange(len(things))
            if keys.count(keys[target]) > 1:
                continue
            name, colour = CLASSES[int(things[target, 0])], COLOUR_NAMES[int(things[target, 1])]
            phrase = thing_phrase(
                name if told != "colour" else None, colour if told != "class" else None, None, rng
            )
            seen, said = embeddings(model, views.to(device()), ids_of(words, [phrase]).to(device()))
            score = (seen @ said.T)[:, 0].view(2, -1).sum(0)
            right[told] += int(score.argmax() == target)
            tried[told] += 1
    return {k: round(right[k] / max(tried[k], 1), 4) for k in right}


def main() -> None:
    from transformers import CLIPImageProcessor, CLIPModel

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--scenes", type=int, default=16000)
    parser.add_argument("--restored", type=int, default=3000)
    args = parser.parse_args()
    torch.manual_seed(0)
    world, tune = archive("train", args.scenes), archive("tune", 250)
    restored = restored_pictures(world, args.restored) if args.restored else None
    batches = Batches(world, restored)
    model: Any = CLIPModel(configuration())
    model.to(device())
    optimiser = Muon(model.named_parameters(), plain=("embed", "logit_scale"))

    def step(progress: float) -> Tensor:
        views, ids, truth, undecided = (t.to(device()) for t in batches())
        with autocast():
            seen, said = embeddings(model, views, ids)
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.0)
        return contrast(seen, said, model.logit_scale.exp(), truth, undecided)

    def report() -> dict[str, float]:
        return picking(model, tune) | {"scale": round(float(model.logit_scale.exp()), 2)}

    average = train(
        "scorer", model, optimiser, step, minutes=args.minutes, report=report, rate=0.01, every=90
    )
    model.load_state_dict(average.values)
    save_half(model, EMBEDDED / "clip")
    tokenizer.save(EMBEDDED / "clip")
    CLIPImageProcessor(
        do_resize=True,
        size={"height": SIZE, "width": SIZE},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(EMBEDDED / "clip")


if __name__ == "__main__":
    main()
