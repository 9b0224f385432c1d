"""The command line's promises: exit codes, files, streams. The retoucher is a stand-in here; what it does is tested elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from retouch_core import cli
from retouch_core.demo import PICTURES, read_cases, run_demo
from retouch_core.models import embedded
from retouch_core.models.clip_scorer import ClipScorer
from retouch_core.models.pretrained import opening
from retouch_core.pictures import read_picture
from retouch_core.report import Report, not_found
from retouch_core.result import Result
from retouch_core.tensors.boxes import Box
from retouch_core.tensors.checks import InputWarning
from retouch_core.tensors.regions import Regions

ROOT = Path(__file__).resolve().parents[2]


class StandIn:
    """Inverts the left half of the picture, unless the query names a giraffe."""

    calls: ClassVar[list[dict[str, Any]]] = []
    built: ClassVar[list[dict[str, Any]]] = []
    scorer: ClassVar[Any] = None
    problem: BaseException | None = None

    def __init__(self, **models: Any) -> None:
        type(self).built.append(models)

    @classmethod
    def embedded(cls) -> StandIn:
        return cls()

    def retouch(
        self,
        image: torch.Tensor,
        *,
        query: str,
        prompt: str,
        recipe: str = "default",
        candidates: int = 4,
        seed: int = 0,
        steps: int | None = None,
        progress: Callable[[float, str], None] | None = None,
        **more: Any,
    ) -> Result:
        type(self).calls.append(
            {
                "query": query,
                "prompt": prompt,
                "recipe": recipe,
                "candidates": candidates,
                "seed": seed,
                "steps": steps,
            }
            | more
        )
        if progress:
            progress(0.5, "editing")
            progress(1.0, "ranking")
        if self.problem:
            raise self.problem
        height, width = image.shape[1:3]
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, :, : width // 2] = True
        masks[1] = ~masks[0]
        found = "giraffe" not in query
        regions = Regions(masks, torch.tensor([0.3, 0.1]), (height, width))
        selected = torch.tensor([found, False])
        m = candidates if found else 0
        made = torch.where(masks[0][..., None], 1 - image, image).expand(m, -1, -1, -1)
        report = Report(
            query=query,
            prompt=prompt,
            recipe=recipe,
            seed=seed,
            size=(height, width),
            candidates=candidates,
            batch_size=candidates,
            found=found,
            message="" if found else not_found(query, regions.scores),
            region_scores=regions.scores,
            selected=selected.nonzero()[:, 0],
            candidate_scores=torch.ones(m),
            ranking=torch.arange(m),
        )
        return Result(
            source=image,
            image=made[:1] if found else image,
            mask=regions.select(selected).union(),
            window=Box.whole((height, width)),
            patches=made,
            area=regions.select(selected).union(),
            patch_masks=regions.select(selected).union().expand(m, -1, -1),
            scores=torch.ones(m),
            best=0,
            regions=regions,
            selected=selected,
            report=report,
        )


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch):
    pipeline = ModuleType("retouch_core.pipeline")
    monkeypatch.setattr(StandIn, "calls", [])
    monkeypatch.setattr(StandIn, "built", [])
    monkeypatch.setattr(StandIn, "scorer", object.__new__(ClipScorer))
    monkeypatch.setattr(StandIn, "problem", None)
    pipeline.Retoucher = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "retouch_core.pipeline", pipeline)
    parts = SimpleNamespace(editor=0, plain=1, segmenter=2, scorer=3, referrer=4)
    monkeypatch.setattr(embedded, "load_embedded", lambda device=None: parts)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def retouch(picture: Path, output: Path, *more: str, query: str = "the car", prompt: str = "a truck") -> int:
    return cli.main(["retouch", str(picture), "--query", query, "--prompt", prompt, "-o", str(output), *more])


def only_sentence(text: str) -> str:
    """stderr without the progress bar, which ends in a carriage return."""
    lines = [line.split("\r")[-1].strip() for line in text.splitlines()]
    lines = [line for line in lines if line and "%|" not in line]
    assert len(lines) == 1 and "Traceback" not in text, text
    return lines[0]


def test_done(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "a" / "out"
    assert retouch(photo, output) == 0
    assert sorted(path.name for path in output.iterdir()) == sorted(cli.OUTPUTS)
    source, result, mask = pixels_of(photo), pixels_of(output / "result.png"), pixels_of(output / "mask.png")
    assert (result[mask == 0] == source[mask == 0]).all() and (
        result[mask == 255] == 255 - source[mask == 255]
    ).all()
    assert Report.from_json((output / "report.json").read_text()).found
    streams = capsys.readouterr()
    assert "the car" in streams.out and "truck" in streams.out and str(output) in streams.out


def test_options_reach_the_retoucher(photo: Path, tmp_path: Path):
    options = ["--recipe", "s00_text_guided", "--candidates", "2", "--seed", "9", "--steps", "5"]
    assert retouch(photo, tmp_path / "out", *options, query=" the car ", prompt="") == 0
    assert StandIn.calls == [
        {
            "query": "the car",
            "prompt": "",
            "recipe": "s00_text_guided",
            "candidates": 2,
            "seed": 9,
            "steps": 5,
        }
    ]


def test_models_are_the_librarys_own_unless_named(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def open_model(role: str, backend: str, name: str, *, path: Path | None, dtype: torch.dtype) -> Any:
        assert dtype is torch.bfloat16
        return SimpleNamespace(networks=(), told=(role, backend, name, path))

    monkeypatch.setattr(opening, "open_model", open_model)
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "config.json").write_text('{"model_type": "clip"}')
    named = [
        "--scorer",
        str(clip),
        "--segmenter",
        "sam2:tiny",
        "--attention",
        "dinov2",
        "--tiny-decoder",
        "taesd",
        "--dtype",
        "bfloat16",
    ]
    assert retouch(photo, tmp_path / "out") == retouch(photo, tmp_path / "other", *named) == 0
    plain, other = StandIn.built
    assert plain == {"editor": 0, "plain": 1, "segmenter": 2, "scorer": 3, "referrer": 4}
    assert (other["editor"], other["plain"], other["referrer"]) == (0, 1, 4)
    assert {role: other[role].told for role in ("scorer", "segmenter", "attention", "tiny_decoder")} == {
        "scorer": ("scorer", "clip", "", clip),
        "segmenter": ("segmenter", "sam2", "tiny", None),
        "attention": ("attention", "dinov2", "", None),
        "tiny_decoder": ("tiny_decoder", "taesd", "", None),
    }


def test_models_that_the_recipe_does_not_look_at_are_named(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(opening, "open_model", lambda *_, **__: SimpleNamespace(networks=()))
    idle = ["--attention", "dinov2", "--tiny-decoder", "taesd"]
    assert retouch(photo, tmp_path / "out", *idle) == 0
    said = capsys.readouterr().out
    assert "--attention 'dinov2' is not used by recipe default; choose one of s01_learnable_regions" in said
    assert "--tiny-decoder 'taesd' is not used by recipe default; choose one of s02_rdm" in said
    assert retouch(photo, tmp_path / "led", "--tiny-decoder", "taesd", "--recipe", "s02_rdm") == 0
    assert "is not used" not in capsys.readouterr().out


def test_a_scorer_without_a_tower_is_bad_input_where_a_recipe_learns(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    class Plain:
        pass

    StandIn.scorer = Plain()
    assert retouch(photo, tmp_path / "out", "--recipe", "s01_learnable_regions", query="") == 2
    said = only_sentence(capsys.readouterr().err)
    assert (
        said.startswith("--scorer 'embedded' cannot be used: scorer is a Plain")
        and "choose embedded or clip" in said
    )


@pytest.mark.parametrize(("asked", "given"), [("full", "full"), ("auto", "auto"), ("512", 512)])
def test_work_size_reaches_the_retoucher(photo: Path, tmp_path: Path, asked: str, given: int | str):
    assert retouch(photo, tmp_path / "out", "--work-size", asked) == 0
    assert StandIn.calls[0]["work_size"] == given


def test_learnable_regions_need_no_query(photo: Path, tmp_path: Path):
    assert retouch(photo, tmp_path / "out", "--recipe", "s01_learnable_regions", query="") == 0
    assert StandIn.calls[0]["query"] == ""


def test_help_pages_of_the_repository_are_those_of_the_recipes(tmp_path: Path):
    assert cli.main(["recipes", "--pages", str(tmp_path)]) == 0
    shipped = Path(__file__).resolve().parents[2] / "docs" / "recipes"
    for path in sorted(tmp_path.iterdir()):
        told = "make them anew with python -m retouch_core recipes --pages docs/recipes"
        assert (shipped / path.name).read_text() == path.read_text(), f"{path.name} is stale; {told}"


def test_left_out_options_stay_the_retouchers_choice(photo: Path, tmp_path: Path):
    retouch(photo, tmp_path / "out")
    assert StandIn.calls[0]["candidates"] == 4 and StandIn.calls[0]["steps"] is None


def test_nothing_found(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "out"
    assert retouch(photo, output, query="the giraffe") == 3
    assert (pixels_of(output / "result.png") == pixels_of(photo)).all()
    assert (pixels_of(output / "mask.png") == 0).all() and pixels_of(output / "mask.png").shape == (30, 40)
    assert sorted(path.name for path in output.iterdir()) == sorted(cli.OUTPUTS)
    assert "“the giraffe” was not found" in capsys.readouterr().out


@pytest.mark.parametrize(("query", "code"), [("the car", 0), ("the giraffe", 3)])
def test_json_is_alone_on_stdout(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], query: str, code: int
):
    assert retouch(photo, tmp_path / "out", "--json", query=query) == code
    values = json.loads(capsys.readouterr().out)
    assert values == json.loads((tmp_path / "out" / "report.json").read_text())
    assert values["found"] == (code == 0)


def test_what_reading_repaired_is_reported(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    clear = Image.fromarray(np.dstack([pixels_of(photo), np.full((30, 40), 100, np.uint8)]))
    clear.save(tmp_path / "clear.png")
    assert retouch(tmp_path / "clear.png", tmp_path / "out", "--json") == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "white" in warning


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.png", "--query", "a", "--prompt", "b", "-o", "out"], "none.png does not exist"),
        (["photo.png", "--query", " ", "--prompt", "b", "-o", "out"], "query is empty"),
        (["photo.png", "--query", "a", "--prompt", "b", "-o", "photo.png/x"], "output folder"),
        (
            ["photo.png", "--query", "a", "--prompt", "b", "-o", "out", "--recipe", "s99"],
            "choose one of default, blended, s00_text_guided",
        ),
        (["photo.png", "--query", "a", "--prompt", "b", "-o", "out", "--candidates", "0"], "got '0'"),
        (["photo.png", "--query", "a", "--prompt", "b", "-o", "out", "--seed", "-1"], "got '-1'"),
        (["photo.png", "--query", "a", "--prompt", "b", "-o", "out", "--steps", "many"], "got 'many'"),
        (["photo.png", "--query", "a", "--prompt", "b", "-o", "out", "--typo"], "--typo"),
        (["photo.png", "--query", "a", "--prompt", "b", "-o", "out", "--work-size", "big"], "got 'big'"),
        (["photo.png", "--prompt", "b", "-o", "out"], "--query"),
        (["result.png", "--query", "a", "--prompt", "b", "-o", "."], "overwritten"),
        (
            ["photo.png", "--query", "a", "--prompt", "b", "-o", "out", "--scorer", "nonsense"],
            "--scorer 'nonsense' is not known; known are embedded, open_clip, clip, siglip",
        ),
        (
            ["photo.png", "--query", "a", "--prompt", "b", "-o", "out", "--device", "toaster"],
            "--device 'toaster' cannot be used here",
        ),
        (
            ["photo.png", "--query", "a", "--prompt", "b", "-o", "out", "--dtype", "int8"],
            "invalid choice: 'int8'",
        ),
        (["broken.png", "--query", "a", "--prompt", "b", "-o", "out"], "broken.png"),
    ],
)
def test_bad_input(
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "result.png").write_bytes(photo.read_bytes())
    (tmp_path / "broken.png").write_bytes(photo.read_bytes()[:200])
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["retouch", *arguments]) == 2
    streams = capsys.readouterr()
    assert words in only_sentence(streams.err) and streams.out == ""
    assert sorted(tmp_path.rglob("*")) == before and not StandIn.calls, (
        "nothing left behind, nothing long begun"
    )


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        (
            ValueError("weights unet.safetensors are damaged; download them again"),
            2,
            "weights unet.safetensors are damaged",
        ),
        (FileNotFoundError("weights are missing; run make train"), 2, "weights are missing"),
        (RuntimeError("boom"), 1, "boom"),
        (KeyboardInterrupt(), 130, "cancelled"),
    ],
)
def test_failures_leave_nothing(
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    problem: BaseException,
    code: int,
    words: str,
):
    monkeypatch.setattr(StandIn, "problem", problem)
    assert retouch(photo, tmp_path / "out") == code
    assert words in only_sentence(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == [photo]


def test_debug_shows_where(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(StandIn, "problem", RuntimeError("boom"))
    with pytest.raises(RuntimeError, match="boom"):
        retouch(photo, tmp_path / "out", "--debug")


def test_progress_goes_to_stderr_unless_quiet(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    retouch(photo, tmp_path / "out")
    assert "%" in capsys.readouterr().err
    retouch(photo, tmp_path / "out", "--quiet")
    assert capsys.readouterr().err == ""


def test_warnings_of_the_stages_are_printed_once_and_others_never(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    honest = StandIn.retouch

    def noisy(self: StandIn, *args: Any, **options: Any) -> SimpleNamespace:
        warnings.warn("someone's future", FutureWarning, stacklevel=1)
        warnings.warn("too bright", InputWarning, stacklevel=1)
        return honest(self, *args, **options)

    monkeypatch.setattr(StandIn, "retouch", noisy)
    retouch(photo, tmp_path / "out", "--quiet")
    streams = capsys.readouterr()
    assert streams.err == "" and streams.out.count("too bright") == 1 and "future" not in streams.out


def test_recipes(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["recipes"]) == 0
    assert "s00_text_guided" in capsys.readouterr().out
    assert cli.main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"default", "s00_text_guided"} <= listed.keys() and isinstance(
        listed["s00_text_guided"]["steps"], int
    )


@pytest.mark.parametrize("arguments", [["--help"], ["retouch", "--help"], ["--version"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert cli.main(arguments) == 0
    assert "retouch" in capsys.readouterr().out


def test_help_is_at_hand_at_once():
    """Without loading torch, which takes seconds."""
    script = (
        "import sys; from retouch_core import cli; cli.main(['--help']); sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=60).returncode
        == 0
    )


def test_no_command(capsys: pytest.CaptureFixture[str]):
    assert cli.main([]) == 2
    only_sentence(capsys.readouterr().err)


def test_as_a_module(tmp_path: Path):
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "retouch_core",
            "retouch",
            "none.png",
            "--query",
            "a",
            "--prompt",
            "b",
            "-o",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2 and "none.png does not exist" in only_sentence(run.stderr)


# ---------------------------------------------------------------------------------------------------- eval


def test_eval_runs_the_repositorys_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = (
        "import pathlib, sys\npathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[1:]))\nsys.exit(4)\n"
    )
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    (tmp_path / "training" / "evaluate.py").write_text(script)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "retouch_core" / "cli.py"))
    for name in [name for name in sys.modules if name.split(".")[0] == "training"]:
        monkeypatch.delitem(sys.modules, name)
    path, arguments = list(sys.path), list(sys.argv)
    assert cli.main(["eval", str(tmp_path / "said"), "--scenes", "5"]) == 4
    assert (tmp_path / "said").read_text().endswith("said --scenes 5")
    assert sys.path == path and sys.argv == arguments
    for name in [name for name in sys.modules if name.split(".")[0] == "training"]:
        del sys.modules[name]  # the stand-in; monkeypatch would put it back


def test_eval_without_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "retouch_core" / "cli.py"))
    assert cli.main(["eval"]) == 2
    assert "repository" in only_sentence(capsys.readouterr().err)


# ---------------------------------------------------------------------------------------------------- demo


@pytest.fixture
def shipped(photo: Path) -> Path:
    entries = [("the car", "a truck"), ("the giraffe", "a horse"), ("the house", "")]
    cases = [{"picture": photo.name, "query": q, "prompt": p, "seed": n} for n, (q, p) in enumerate(entries)]
    (photo.parent / "cases.json").write_text(json.dumps(cases))
    return photo.parent


def test_demo_writes_every_case(shipped: Path, tmp_path: Path):
    lines: list[str] = []
    fractions: list[float] = []
    edited = run_demo(
        tmp_path / "demo",
        folder=shipped,
        say=lines.append,
        progress=lambda fraction, _: fractions.append(fraction),
    )
    assert edited == 2 and len(lines) == 4 and [call["seed"] for call in StandIn.calls] == [0, 1, 2]
    names = {f"{n}_photo_{kind}.png" for n in (1, 2, 3) for kind in ("result", "sheet")} | {"overview.png"}
    assert {path.name for path in (tmp_path / "demo").iterdir()} == names
    assert (
        "becomes “a truck”" in lines[0]
        and "not found" in lines[1]
        and "removed" in lines[2]
        and "2 of 3" in lines[3]
    )
    assert fractions == sorted(fractions) and fractions[-1] == 1


def test_demo_fails_whole(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(StandIn, "problem", RuntimeError("boom"))
    with pytest.raises(RuntimeError):
        run_demo(tmp_path / "demo", folder=shipped, say=lambda _: None)
    assert not (tmp_path / "demo").exists()


def test_demo_with_damaged_cases(tmp_path: Path):
    (tmp_path / "cases.json").write_text("[{}]")
    with pytest.raises(ValueError, match=r"cases\.json"):
        read_cases(tmp_path)
    with pytest.raises(ValueError, match="missing"):
        read_cases(tmp_path / "none")


def test_the_shipped_cases_are_complete():
    cases = read_cases()
    assert len(cases) == 6
    for case in cases:
        assert min(read_picture(PICTURES / case.picture).shape[1:3]) >= 128 and case.query.strip()
