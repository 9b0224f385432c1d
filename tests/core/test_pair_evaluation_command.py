"""`eval --pairs`: models by name, exit codes, streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from drawn_lists import pie_bench
from stubs import ColourEditor, ColourReferrer, ColourScorer, ColourSegmenter

from retouch_core import cli
from retouch_core.evaluation import command as of_pairs
from retouch_core.model_names import EMBEDDED, Editors, EmbeddedSource, load_models, resolve
from retouch_core.pipeline import Retoucher
from retouch_core.result import Result


class ColourSource:
    """Knows `embedded` and `colours`."""

    def __init__(self, device: str | None = None) -> None:
        self.asked: list[tuple[str, str]] = []

    def known(self, role: str) -> str:
        return "embedded, colours"

    def __call__(self, role: str, name: str) -> Any:
        if name not in ("embedded", "colours"):
            return None
        self.asked.append((role, name))
        parts = {
            "editor": Editors(ColourEditor()),
            "segmenter": ColourSegmenter(),
            "scorer": ColourScorer(),
            "judge": ColourScorer(),
            "referrer": ColourReferrer(),
        }
        return parts[role]


def test_names_become_models():
    names = dict.fromkeys(("editor", "segmenter", "scorer", "referrer", "judge"), EMBEDDED)
    source = ColourSource()
    found = load_models(names, [source])
    assert found.judge is found.retoucher.scorer and isinstance(found.retoucher.editor, ColourEditor)
    assert ("judge", EMBEDDED) not in source.asked
    other = load_models({**names, "judge": "colours"}, [source])
    assert other.judge is not other.retoucher.scorer


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"^--editor 'sd15' is not known; known are embedded$"):
        resolve("editor", "sd15", [EmbeddedSource()])
    with pytest.raises(ValueError, match="known are embedded, embedded, colours"):
        resolve("editor", "sd15", [EmbeddedSource(), ColourSource()])


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return pie_bench(tmp_path / "list")


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_pairs, "places_of", lambda options: (ColourSource(),))


def command(*arguments: str) -> int:
    return cli.main(["eval", *arguments])


@pytest.mark.usefixtures("colours")
def test_command(listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    arguments = [
        "--pairs",
        str(listed),
        "-o",
        str(out),
        "--steps",
        "3",
        "--candidates",
        "2",
        "--limit",
        "2",
        "-q",
    ]
    assert command(*arguments) == 0
    streams = capsys.readouterr()
    assert streams.out.startswith((out / "table.md").read_text()) and streams.err == ""
    assert "2 of 5 pairs, layout PIE-Bench" in streams.out and "distance (scorer embedding)" in streams.out
    assert command(*arguments, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "table.json").read_text())
    assert told["settings"]["models"]["editor"] == "embedded" and told["rows"][0]["count"] == 2
    assert command(*arguments, "--seed", "5") == 2
    assert "seed was 0, is 5" in capsys.readouterr().err


@pytest.mark.usefixtures("colours")
def test_command_that_is_cancelled_says_how_to_go_on(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    honest, calls = Retoucher.retouch, []

    def twice(self: Retoucher, *args: Any, **options: Any) -> Result:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(self, *args, **options)

    monkeypatch.setattr(Retoucher, "retouch", twice)
    arguments = [
        "--pairs",
        str(listed),
        "-o",
        str(tmp_path / "out"),
        "--steps",
        "3",
        "--candidates",
        "2",
        "-q",
    ]
    assert command(*arguments) == 130
    assert "run the same command again to go on from there" in capsys.readouterr().err
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2
    assert command(*arguments) == 0 and len(calls) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pairs", "none"], "--pairs none does not exist"),
        (
            ["--pairs", "LIST", "--editor", "sd15"],
            "--editor 'sd15' is not known; known are embedded, diffusers",
        ),
        (["--pairs", "LIST", "--steps", "0"], "must be a whole number from 1 to 1000, got '0'"),
        (["--pairs", "LIST", "--recipe", "s99"], "recipe 's99' does not exist"),
        (["--pairs", "LIST", "--choices", "best"], "choices must be different ones"),
        (["--pairs", "LIST", "--typo"], "--typo"),
        (["--pairs", "LIST", "-o", "LIST/mapping_file.json"], "is a file"),
        (["--pairs", "LIST", "--lpips", "resnet"], "got 'resnet'"),
    ],
)
def test_command_refuses_in_one_sentence(
    listed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
):
    monkeypatch.chdir(tmp_path)
    assert command(*(argument.replace("LIST", str(listed)) for argument in arguments), "-q") == 2
    streams = capsys.readouterr()
    assert words in streams.err and len(streams.err.strip().splitlines()) == 1 and streams.out == ""
    assert not (tmp_path / "evaluation").exists()


def test_help_describes_the_lists(capsys: pytest.CaptureFixture[str]):
    assert command("--help") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("pairs.jsonl", "mapping_file.json", "captions_*.json", "--judge"))
