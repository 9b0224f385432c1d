"""The library from a shell: `retouch`, `recipes`, `models`, `demo`, `eval`.

Exit codes: 0 done, 1 an unexpected error, 2 bad input (one sentence on stderr), 3 nothing found (the picture is written
unchanged with an empty mask), 130 cancelled.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .command_line import BAD_INPUT, CANCELLED, DONE, NOT_FOUND, UNEXPECTED, Parser, say, whole

PROG = "python -m retouch_core"

OUTPUTS = ("result.png", "mask.png", "sheet.png", "report.json")
"""What `retouch` writes."""

SEED_LIMIT = 2**63 - 1 - 10_000
"""Candidate k is drawn with seed + k, which has to stay a 64-bit seed."""

LOG_SECONDS = 5.0
"""How often progress is written where stderr is a file, so that logs stay short."""

Progress = Callable[[float, str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    try:
        options, rest = parser.parse_known_args(arguments)
        if rest and options.command != "eval":
            parser.error(f"unknown argument {rest[0]}")
    except SystemExit as stop:  # --help, --version and refused arguments
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    options.rest = rest
    try:
        with _only_our_warnings(options.debug):
            code: int = options.run(options)
        return code
    except KeyboardInterrupt:
        say("cancelled; nothing was written")
        return CANCELLED
    except (ValueError, FileNotFoundError, PermissionError) as error:
        if options.debug:
            raise
        say(str(error))
        return BAD_INPUT
    except Exception as error:
        if options.debug:
            raise
        say(f"unexpected {type(error).__name__}: {error} (run again with --debug to see where)")
        return UNEXPECTED


# ------------------------------------------------------------------------------------------------ commands


def _retouch(options: argparse.Namespace) -> int:
    from .model_names import load_retoucher, names_of, places_of
    from .pictures import (
        OutputFolder,
        check_writable,
        colour_profile,
        read_picture,
        write_drawing,
        write_mask,
        write_picture,
    )
    from .recipes import DEFAULT, HALVING, recipe
    from .tensors.checks import InputWarning, check_text

    # Everything that can be wrong is found before anything long begins.
    chosen = recipe(options.recipe or DEFAULT)
    query = options.query.strip() if chosen.find == "learn" else check_text(options.query)
    check_writable(options.output)
    _check_not_overwritten(options.picture, options.output)
    asked = {
        "recipe": options.recipe,
        "candidates": options.candidates,
        "seed": options.seed,
        "steps": options.steps,
        "work_size": options.work_size,
        "prune": HALVING if options.prune else None,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    # Repaired input belongs into the report, which is printed: not on stderr as well.
    with warnings.catch_warnings(record=True) as caught:
        image = read_picture(options.picture)
        profile = colour_profile(options.picture)
        with _progress_bar(options.quiet) as progress:
            progress(0.0, "loading models")
            _warn_of_idle_models(options, chosen)
            retoucher = load_retoucher(names_of(options), places_of(options))
            if chosen.find == "learn":
                _check_tower(options.scorer, retoucher.scorer)
            result = retoucher.retouch(image, query=query, prompt=options.prompt, progress=progress, **given)
    noticed = [str(warning.message) for warning in caught if issubclass(warning.category, InputWarning)]
    report = replace(result.report, warnings=list(dict.fromkeys([*noticed, *result.report.warnings])))

    with OutputFolder(options.output) as folder:
        write_picture(folder / "result.png", result.image, profile=profile)
        write_mask(folder / "mask.png", result.mask)
        write_drawing(folder / "sheet.png", result.sheet())
        report.save(folder / "report.json")

    if options.json:
        print(report.to_json())
    else:
        print(report)
        print(f"Wrote {', '.join(OUTPUTS)} to {options.output}")
    return DONE if report.found else NOT_FOUND


def _recipes(options: argparse.Namespace) -> int:
    from .pictures import write_text
    from .recipes import RECIPES, recipe, recipe_table
    from .recipes.pages import pages
    from .report import plain

    names = tuple(options.names) or tuple(RECIPES)
    chosen = {name: recipe(name) for name in names}
    if options.pages is not None:
        folder = Path(options.pages)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages().items():
            write_text(folder / name, text)
        print(f"Wrote {len(pages())} pages to {folder}")
    elif options.json:
        rows = {name: asdict(entry) for name, entry in chosen.items()}
        print(json.dumps(plain(rows), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(recipe_table(names))
    return DONE


def _demo(options: argparse.Namespace) -> int:
    from .demo import run_demo

    with _progress_bar(options.quiet) as progress:
        run_demo(options.output, progress=progress, say=_above_the_bar)
    return DONE


def _eval(options: argparse.Namespace) -> int:
    if options.pairs is not None or options.help:
        from .evaluation.command import run

        given = ["--help"] if options.help else ["--pairs", options.pairs, *options.rest]
        return run(given, f"{PROG} eval", _progress_bar, _say_above_the_bar)
    import runpy

    root = Path(__file__).resolve().parents[1]
    if not (root / "training" / "evaluate.py").is_file():
        raise ValueError(
            "eval needs the repository, which holds the scenes to measure on; clone it and run make eval"
        )
    sys.path.insert(0, str(root))
    before, sys.argv = sys.argv, ["training.evaluate", *options.rest]
    try:
        runpy.run_module("training.evaluate", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else UNEXPECTED if stop.code else DONE
    finally:
        sys.argv = before
        sys.path.remove(str(root))
    return DONE


def _check_tower(name: str, scorer: Any) -> None:
    from .learning import check_tower

    try:
        check_tower(scorer)
    except TypeError as error:
        raise ValueError(f"--scorer {name!r} cannot be used: {error}; choose embedded or clip") from error


def _warn_of_idle_models(options: argparse.Namespace, chosen: Any) -> None:
    """Say which models the recipe does not look at."""
    from .editing.loss_terms import SMALL
    from .recipes import RECIPES
    from .tensors.checks import InputWarning

    uses = {
        "attention": lambda one: one.find == "learn",
        "tiny_decoder": lambda one: one.loss_scale and one.loss_path in SMALL,
    }
    for role, used in uses.items():
        if getattr(options, role) is not None and not used(chosen):
            others = ", ".join(name for name, one in RECIPES.items() if used(one))
            option = f"--{role.replace('_', '-')}"
            warnings.warn(
                f"{option} {getattr(options, role)!r} is not used by recipe {options.recipe or 'default'}; choose one of {others}",
                InputWarning,
                stacklevel=2,
            )


def _check_not_overwritten(picture: str, folder: str) -> None:
    source = Path(picture).resolve()
    if source in [(Path(folder) / name).resolve() for name in OUTPUTS]:
        raise ValueError(
            f"{picture} would be overwritten by its own result; choose another output folder than {folder}"
        )


# ----------------------------------------------------------------------------------------------- arguments


def _parser() -> argparse.ArgumentParser:
    from . import __version__
    from .model_names import add_model_options
    from .models_cli import add_models

    parser = Parser(
        prog=PROG,
        description="Change part of a picture by saying it.",
        epilog="exit codes: 0 done, 1 unexpected error, 2 bad input, 3 nothing found, 130 cancelled",
    )
    parser.add_argument("--version", action="version", version=f"text-retouch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    retouch = _command(
        commands, "retouch", _retouch, "change the region that a query names into what a prompt says"
    )
    retouch.add_argument(
        "picture", metavar="PICTURE", help="PNG, JPEG, WebP, TIFF, ...; at least 16 px a side"
    )
    retouch.add_argument("--query", required=True, help="what to change, such as 'the red car on the left'")
    retouch.add_argument(
        "--prompt", required=True, help="what it becomes, such as 'a blue truck'; '' removes it"
    )
    retouch.add_argument("--recipe", metavar="NAME", help="how to do it; the command recipes lists them")
    retouch.add_argument("--candidates", metavar="M", type=whole(1, 10_000), help="how many to choose from")
    retouch.add_argument("--seed", metavar="N", type=whole(0, SEED_LIMIT), help="same seed, same result")
    retouch.add_argument("--steps", metavar="N", type=whole(1, 1000), help="sampling steps")
    retouch.add_argument(
        "--work-size",
        metavar="SIZE",
        type=_work_size,
        help="full, auto, or the side in px of a crop around the region that is worked on",
    )
    retouch.add_argument(
        "--prune",
        action="store_true",
        help="paint many candidates for less: only the most promising go through all of the steps",
    )
    retouch.add_argument("-o", "--output", metavar="DIR", required=True, help=f"gets {', '.join(OUTPUTS)}")
    retouch.add_argument(
        "--json", action="store_true", help="print the report as JSON, and nothing else, on stdout"
    )
    _quiet(retouch)
    add_model_options(retouch)

    recipes = _command(commands, "recipes", _recipes, "list the recipes")
    recipes.add_argument("names", nargs="*", metavar="NAME", help="these alone")
    recipes.add_argument("--pages", metavar="DIR", help="write their help pages there instead")
    recipes.add_argument("--json", action="store_true", help="as JSON, with every value")

    demo = _command(commands, "demo", _demo, "retouch the shipped pictures")
    demo.add_argument(
        "-o", "--output", metavar="DIR", default="demo", help="gets the pictures (default: %(default)s)"
    )
    _quiet(demo)

    add_models(commands, _command, _quiet)

    summary = (
        "measure: with --pairs on a list of pictures, else the embedded models, which needs the repository"
    )
    # Everything else goes on as it is: there are two commands behind this one, each with its own arguments.
    evaluate = _command(commands, "eval", _eval, summary, add_help=False, allow_abbrev=False)
    evaluate.add_argument("--pairs", metavar="DIR")
    evaluate.add_argument("-h", "--help", action="store_true")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, **more: Any
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary.capitalize()}.", **more
    )
    command.set_defaults(run=run)
    command.add_argument("--debug", action="store_true", help="show where an error comes from")
    return command


def _quiet(command: argparse.ArgumentParser) -> None:
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def _work_size(text: str) -> int | str:
    """An argparse type for `full`, `auto` or a side in px."""
    return (
        text
        if text in ("full", "auto")
        else whole(16, 8192, "a side, where it is neither full nor auto,")(text)
    )


# ------------------------------------------------------------------------------------------------- talking


def _above_the_bar(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line)


def _say_above_the_bar(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


@contextmanager
def _progress_bar(quiet: bool) -> Iterator[Progress]:
    """A bar on stderr, moved by `(fraction, text)`; a few lines where stderr is not a terminal."""
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    layout = "{desc:<28}{percentage:3.0f}%|{bar:30}| {elapsed}"
    with tqdm(total=100, disable=quiet, bar_format=layout, mininterval=interval, leave=False) as bar:

        def progress(fraction: float, text: str) -> None:
            bar.set_description_str(text, refresh=False)
            moved = 100 * min(max(fraction, 0.0), 1.0) - bar.n
            if moved > 0:
                bar.update(moved)
            elif sys.stderr.isatty():
                bar.refresh()

        yield progress


@contextmanager
def _only_our_warnings(debug: bool) -> Iterator[None]:
    """Silence the libraries below, whose warnings an artist can do nothing about."""
    if debug:
        yield
        return
    from .tensors.checks import InputWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        yield
