"""The command `models`: which pretrained models fill which role, what of them is on this machine, and how to get the rest."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .command_line import CANCELLED, DONE, say
from .models.pretrained.catalogue import (
    BACKENDS,
    CATALOGUE,
    FOLDERS,
    ROLES,
    Pretrained,
    alternatives,
    entry,
    kept_as,
)
from .models.pretrained.lookup import COMMAND, ENVIRONMENT, Found, candidates, is_entry, model_roots

ROLE_TITLES = {
    "segmenter": "Segmenters: find the entities of a picture without naming them",
    "scorer": "Scorers: say how well a phrase fits a picture",
    "referrer": "Referrers: find what a phrase means",
    "attention": "Attention: where learnable regions begin",
    "perceptual": "Perceptual distance: how different two pictures look",
    "tiny_decoder": "Tiny decoders of the library, through which guidance looks; in ComfyUI, TAESD in models/vae_approx",
    "editor": "Editors of the library; in ComfyUI any MODEL takes this place",
}

LOG_SECONDS = 5.0
"""How often progress is written where stderr is a file."""


def add_models(
    commands: Any,
    command: Callable[[Any, str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser],
    quiet: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add `models` and `models get` to the command line.

    Args:
        commands: what `add_subparsers` gave; command: adds one with the usual options; quiet: adds --quiet.
    """
    models = command(commands, "models", _list, "list the pretrained models: what is here, what is missing")
    models.add_argument("--role", choices=ROLES, metavar="ROLE", help=f"one of {', '.join(ROLES)}")
    models.add_argument("--json", action="store_true", help="as JSON")
    models.add_argument("--markdown", action="store_true", help="the tables of docs/models.md")
    models.epilog = (
        f"models are looked for in the folders of {ENVIRONMENT} (separated as in PATH) or else in ./models, "
        "and in the local Hugging Face cache"
    )
    actions = models.add_subparsers(dest="action", metavar="get")
    get = actions.add_parser(
        "get",
        help="download a model",
        description="Download a model; one that broke off goes on where it stopped.",
    )
    get.set_defaults(run=_get)
    get.add_argument("key", metavar="KEY", help="as the list has it; a role or backend means its first model")
    get.add_argument(
        "--to",
        metavar="DIR",
        help=f"folder of models, such as ComfyUI's (default: the first of {ENVIRONMENT}, or ./models)",
    )
    get.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error comes from"
    )
    quiet(get)


# ----------------------------------------------------------------------------------------------- the list


def _list(options: argparse.Namespace) -> int:
    roles = ROLES if options.role is None else (options.role,)
    if options.markdown:
        print(markdown(roles), end="")
    elif options.json:
        rows = [row for role in roles for row in as_rows(role)]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(_table(role) for role in roles))
        print(f"\nTo download one: {COMMAND} KEY; sizes with ~ are approximate")
    return DONE


def as_rows(role: str) -> list[dict[str, Any]]:
    """The models of a role as JSON has them: those of the catalogue, then others that are on this machine."""
    found = candidates(role, broken=True)
    rows = [
        _row(one, [there for there in found if is_entry(there, one)]) for one in CATALOGUE if one.role == role
    ]
    others = [there for there in found if not any(is_entry(there, one) for one in CATALOGUE)]
    return rows + [
        {"key": None, "role": role, "backend": there.backend, "found": [_there(there)]} for there in others
    ]


def _row(one: Pretrained, found: list[Found]) -> dict[str, Any]:
    return {
        "key": one.key,
        "role": one.role,
        "backend": one.backend,
        "repository": one.repository,
        "page": one.page,
        "files": [list(alternatives(file)) for file in one.files],
        "gigabytes": one.gigabytes,
        "approximate": one.approximate,
        "licence": one.licence,
        "gated": one.gated,
        "note": one.note,
        "target": str(model_roots()[0] / one.folder),
        "command": f"{COMMAND} {one.key}",
        "found": [_there(there) for there in found],
    }


def _there(found: Found) -> dict[str, Any]:
    return {
        "name": found.name,
        "path": str(found.path),
        "cached": found.cached,
        "lacks": [list(alternatives(file)) for file in found.lacks],
    }


def _table(role: str) -> str:
    """A role's models for a terminal: what is there with its place, what is missing with what it would take."""
    lines = [ROLE_TITLES[role]]
    rows = as_rows(role)
    width = max(len(row["key"] or row["found"][0]["name"]) for row in rows)
    broad = max(len(row["backend"]) for row in rows)
    for row in rows:
        whole = [there for there in row["found"] if not there["lacks"]]
        broken = [there for there in row["found"] if there["lacks"]]
        start = f"  {row['backend']:<{broad}}  {row['key'] or row['found'][0]['name']:<{width}}  "
        if whole:
            lines.append(f"{start}found    {whole[0]['path']}")
            lines += [f"{' ' * len(start)}and      {there['path']}" for there in whole[1:]]
        elif broken:
            lacks = ", ".join(" or ".join(names) for names in broken[0]["lacks"])
            lines.append(f"{start}broken   {broken[0]['path']} lacks {lacks}")
        else:
            one = entry(row["key"])
            gated = ", gated" if one.gated else ""
            lines.append(f"{start}missing  {one.repository} ({one.size}, {one.licence}{gated})")
            lines.append(f"{' ' * len(start)}         {', '.join(shown_files(one))} -> {row['target']}")
    return "\n".join(lines)


def shown_files(one: Pretrained) -> list[str]:
    """The files of a model as a reader wants them: the usual name alone, without its substitutes."""
    return [alternatives(file)[0] for file in one.files]


def markdown(roles: tuple[str, ...] = ROLES) -> str:
    """The tables of docs/models.md."""
    parts = []
    for role in roles:
        parts += [
            f"### {ROLE_TITLES[role]}",
            "",
            f"Folder `{FOLDERS[role]}/`.",
            "",
            "| key | backend | published as | files | size | licence | note |",
            "|---|---|---|---|---|---|---|",
        ]
        for one in CATALOGUE:
            if one.role != role:
                continue
            place = f"`{one.repository}`" if one.elsewhere else f"[{one.repository}]({one.page})"
            notes = [*(["**gated**"] if one.gated else []), *([one.note] if one.note else [])]
            files = ", ".join(f"`{name}`" for name in shown_files(one))
            cells = (
                f"`{one.key}`",
                BACKENDS[one.backend].title,
                place,
                files,
                one.size,
                one.licence,
                "; ".join(notes),
            )
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    instead = sorted(
        {
            (kept_as(names[0]), tuple(dict.fromkeys(names[1:])))
            for one in CATALOGUE
            if one.role in roles
            for names in map(alternatives, one.files)
            if len(names) > 1
        }
    )
    parts += ["Instead of a file above one of these will do:", ""]
    parts += [f"- `{name}`: {', '.join(f'`{other}`' for other in others)}" for name, others in instead]
    return "\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------- get


def _get(options: argparse.Namespace) -> int:
    from .download import download, plan

    one = entry(options.key)
    root = Path(options.to).expanduser() if options.to else model_roots()[0]
    made = plan(one, root / one.folder)
    if not made.missing:
        print(f"{one.key} is there already, as published: {made.folder}")
        return DONE
    say(f"{one.key} from {one.page}: {made.size / 1e9:.2f} GB, licence {one.licence}")
    if made.arrived:
        say(f"{made.arrived / 1e9:.2f} GB of it arrived earlier")
    try:
        with _bar(one.key, made.size, made.arrived, options.quiet) as bar:
            folder = download(made, bar.update)
    except KeyboardInterrupt:
        say("cancelled; what has arrived stays, and the same command goes on from there")
        return CANCELLED
    print(f"Wrote {len(made.missing)} files to {folder}")
    if root.absolute() not in [place.absolute() for place in model_roots()]:
        say(
            f"set {ENVIRONMENT}={root.absolute()} for the library to find it; ComfyUI finds what is in its own folders"
        )
    return DONE


def _bar(name: str, size: int, arrived: int, quiet: bool) -> Any:
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    return tqdm(
        total=size,
        initial=arrived,
        desc=name,
        unit="B",
        unit_scale=True,
        disable=quiet,
        mininterval=interval,
        leave=False,
    )
