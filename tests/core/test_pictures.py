"""Pictures in every form that people have them, and files that appear whole or not at all."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from retouch_core import pictures
from retouch_core.pictures import (
    OutputFolder,
    check_writable,
    colour_profile,
    read_picture,
    write_drawing,
    write_mask,
    write_picture,
    write_text,
)
from retouch_core.tensors.checks import InputWarning

SIZE = (24, 20)
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, SIZE, dtype=np.uint8)


@pytest.fixture(autouse=True)
def _no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def saved(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert text and "\n" not in text and "Traceback" not in text
    return text


def png16(path: Path, values: np.ndarray, colour_type: int) -> Path:
    """A 16-bit PNG written from the format's specification, since Pillow writes none with colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


# ------------------------------------------------------------------------------------------------- reading


def test_rgb(tmp_path: Path):
    image = read_picture(saved(tmp_path / "a.png", Image.fromarray(RGB)))
    assert image.shape == (1, *SIZE, 3) and image.dtype == torch.float32
    assert np.allclose(image[0].numpy(), RGB / 255, atol=1e-7)


def test_every_eight_bit_value_survives_reading_and_writing(tmp_path: Path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([ramp, ramp.T, 255 - ramp], 2)
    image = read_picture(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    write_picture(tmp_path / "b.png", image)
    assert (pixels_of(tmp_path / "b.png") == pixels).all()
    assert torch.equal(read_picture(tmp_path / "b.png"), image)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palette(tmp_path: Path, mode: str):
    picture = Image.fromarray(GREY).convert(mode)
    image = read_picture(saved(tmp_path / "a.png", picture))
    expected = np.asarray(picture.convert("L"))
    assert (image[0].numpy() * 255).round().astype(int).tolist() == np.stack([expected] * 3, 2).tolist()


def test_sixteen_bit_grey_keeps_its_precision(tmp_path: Path):
    values = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE) * 136
    image = read_picture(png16(tmp_path / "a.png", values, colour_type=0))
    assert np.abs(image[0, ..., 1].numpy().astype(np.float64) - values / 65535).max() < 1e-7
    assert len(image.unique()) == values.size


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4)])
def test_sixteen_bit_colour_says_that_it_loses_precision(tmp_path: Path, colour_type: int, channels: int):
    values = RNG.integers(0, 65536, (*SIZE, channels)).astype(np.uint16)
    values[..., 3:] = 65535
    path = png16(tmp_path / "a.png", values, colour_type)
    with pytest.warns(InputWarning, match="16 bits per channel"):
        image = read_picture(path)
    assert np.abs(image[0].numpy() - values[..., :3] / 65535).max() <= 1 / 255 + 1e-6


def test_opaque_alpha_is_dropped_silently(tmp_path: Path):
    rgba = np.dstack([RGB, np.full(SIZE, 255, np.uint8)])
    image = read_picture(saved(tmp_path / "a.png", Image.fromarray(rgba)))
    assert ((image[0] * 255).round().numpy() == RGB).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pictures_are_put_on_white(tmp_path: Path, mode: str):
    alpha = np.zeros(SIZE, np.uint8)
    alpha[:12] = 128
    alpha[:6] = 255
    colours = np.stack([GREY] * 3, 2) if mode == "LA" else RGB
    picture = Image.fromarray(np.dstack([colours, alpha])).convert(mode)
    path = saved(tmp_path / "a.png", picture)
    with pytest.warns(InputWarning, match="on white"):
        image = read_picture(path)
    share = alpha[..., None] / 255
    expected = colours * share + 255 * (1 - share)
    assert np.abs(image[0].numpy() * 255 - expected).max() <= 1


def test_transparent_palette_colour_is_put_on_white(tmp_path: Path):
    indices = (np.arange(SIZE[0] * SIZE[1]) % 3).reshape(SIZE).astype(np.uint8)
    picture = Image.fromarray(indices, "L")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    path = saved(tmp_path / "a.gif", picture, transparency=1)
    with pytest.warns(InputWarning, match="on white"):
        image = read_picture(path)
    colours = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 1]])
    assert np.allclose(image[0].numpy(), colours[indices])


def test_cmyk(tmp_path: Path):
    cmyk = np.zeros((*SIZE, 4), np.uint8)
    cmyk[..., 1:3] = 255  # full magenta and yellow ink: red
    path = saved(tmp_path / "a.tif", Image.fromarray(cmyk, "CMYK"))
    with pytest.warns(InputWarning, match="CMYK"):
        image = read_picture(path)
    assert torch.equal(image[0], torch.tensor([1.0, 0, 0]).expand(*SIZE, 3))


def test_animation_uses_its_first_frame(tmp_path: Path):
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "lime", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    with pytest.warns(InputWarning, match="3 frames"):
        image = read_picture(path)
    assert torch.equal(image[0, 0, 0], torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["colour", "16-bit grey"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, kind: str):
    """The stored picture is what a camera held at `orientation` would write (EXIF 2.3, tag 0x112)."""
    upright = RGB if kind == "colour" else GREY.astype(np.uint16) * 257
    stored = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.swapaxes(a, 0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x112] = orientation
    image = read_picture(saved(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif))
    expected = upright / 255 if kind == "colour" else np.stack([upright / 65535] * 3, 2)
    assert image.shape[1:3] == SIZE
    assert np.abs(image[0].numpy() - expected).max() < 1e-6


def test_twenty_megapixels(tmp_path: Path):
    image = read_picture(saved(tmp_path / "a.jpg", Image.new("RGB", (5000, 4000), "teal")))
    assert image.shape == (1, 4000, 5000, 3)


def test_float_pictures(tmp_path: Path):
    values = RNG.random(SIZE, dtype=np.float32)
    image = read_picture(saved(tmp_path / "a.tif", Image.fromarray(values)))
    assert np.allclose(image[0, ..., 0].numpy(), values)
    with pytest.raises(ValueError, match=r"where 0\.\.1 is white") as error:
        read_picture(saved(tmp_path / "b.tif", Image.fromarray(values * 1000)))
    assert "b.tif" in one_sentence(error.value)


def test_profile_travels_so_that_colours_look_the_same(tmp_path: Path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = saved(tmp_path / "a.png", Image.fromarray(RGB), icc_profile=profile)
    assert colour_profile(source) == profile
    written = write_picture(tmp_path / "b.png", read_picture(source), profile=colour_profile(source))
    assert colour_profile(written) == profile
    assert (pixels_of(written) == RGB).all()
    assert colour_profile(saved(tmp_path / "c.png", Image.fromarray(RGB))) is None


# ------------------------------------------------------------------------------------------------- refusing


def test_one_pixel(tmp_path: Path):
    with pytest.raises(ValueError, match="1x1 px") as error:
        read_picture(saved(tmp_path / "dot.png", Image.new("RGB", (1, 1))))
    assert "dot.png" in one_sentence(error.value)


def test_missing(tmp_path: Path):
    with pytest.raises(ValueError, match="does not exist") as error:
        read_picture(tmp_path / "none.png")
    assert "none.png" in one_sentence(error.value)


def test_folder(tmp_path: Path):
    with pytest.raises(ValueError, match="folder") as error:
        read_picture(tmp_path)
    assert str(tmp_path) in one_sentence(error.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"])
def test_not_a_picture(tmp_path: Path, content: bytes):
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_picture(path)
    assert "odd.png" in one_sentence(error.value)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.9))
def test_truncated_anywhere(tmp_path: Path, form: str, share: float):
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format=form)
    path = tmp_path / f"cut.{form.lower()}"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError) as error:
            read_picture(path)
    assert path.name in one_sentence(error.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF"])
def test_a_flipped_byte_is_read_or_refused_in_one_sentence(
    tmp_path: Path, form: str, place: float, value: int
):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, format=form)
    content = bytearray(buffer.getvalue())
    content[int(place * len(content))] = value
    path = tmp_path / "bent"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert read_picture(path).isfinite().all()
        except ValueError as error:
            assert "bent" in one_sentence(error)


def test_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = saved(tmp_path / "huge.png", Image.new("1", (400, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="megapixels") as error:
        read_picture(path)
    assert "huge.png" in one_sentence(error.value)


# ------------------------------------------------------------------------------------------------- writing


def test_writing_rounds_and_clamps(tmp_path: Path):
    image = torch.full((1, 16, 16, 3), 100.4 / 255)
    image[0, 0, 0] = torch.tensor([-1.0, 2.0, 100.6 / 255])
    pixels = pixels_of(write_picture(tmp_path / "a.png", image))
    assert pixels[0, 0].tolist() == [0, 255, 101] and pixels[1, 1].tolist() == [100] * 3


def test_mask_is_white_where_edited(tmp_path: Path):
    mask = torch.zeros(1, 20, 30)
    mask[0, 5:, 7:] = 1
    pixels = pixels_of(write_mask(tmp_path / "m.png", mask))
    assert pixels.shape == (20, 30) and (pixels == (mask[0] * 255).numpy()).all()


def test_only_png_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\.png"):
        write_picture(tmp_path / "a.jpg", torch.zeros(1, 16, 16, 3))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = write_text(tmp_path / "a.png", "old")

    class Broken(Image.Image):
        def save(self, file, **_):  # type: ignore[no-untyped-def,override]
            file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_drawing(path, Broken())
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_written_files_have_ordinary_permissions(tmp_path: Path):
    umask = os.umask(0o022)
    try:
        path = write_picture(tmp_path / "a.png", torch.zeros(1, 16, 16, 3))
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644


def test_check_writable_leaves_nothing(tmp_path: Path):
    assert check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


def test_unwritable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_text(tmp_path / "file", "x")
    for folder in (file, file / "below"):
        with pytest.raises(ValueError, match="is a file") as error:
            check_writable(folder)
        assert str(folder) in one_sentence(error.value)

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pictures.Path, "touch", refuse)
    with pytest.raises(ValueError, match="permission denied") as error:
        check_writable(tmp_path / "new")
    assert "new" in one_sentence(error.value)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses files: /proc")
def test_a_folder_that_refuses_even_administrators():
    with pytest.raises(ValueError, match="/proc/new"):
        check_writable("/proc/new")


def test_output_folder_appears_whole(tmp_path: Path):
    target = tmp_path / "a" / "out"
    with OutputFolder(target) as out:
        write_text(out / "one.txt", "1")
        write_mask(out / "two.png", torch.zeros(16, 16))
        assert not [path for path in target.iterdir() if not path.name.startswith(".")]
    assert sorted(path.name for path in target.iterdir()) == ["one.txt", "two.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_output_folder_leaves_nothing_after_a_failure(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), OutputFolder(tmp_path / "a" / "out") as out:
        write_text(out / "one.txt", "1")
        raise error
    assert not list(tmp_path.iterdir())


def test_output_folder_keeps_what_was_there(tmp_path: Path):
    write_text(tmp_path / "mine.txt", "keep")
    write_text(tmp_path / "one.txt", "old")
    with pytest.raises(RuntimeError), OutputFolder(tmp_path) as out:
        write_text(out / "one.txt", "half")
        raise RuntimeError
    assert (tmp_path / "one.txt").read_text() == "old"
    with OutputFolder(tmp_path) as out:
        write_text(out / "one.txt", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.txt", "one.txt"]
    assert (tmp_path / "one.txt").read_text() == "new"


def test_output_folder_refuses_before_moving_anything(tmp_path: Path):
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(ValueError, match=r"b\.txt is a folder"), OutputFolder(tmp_path) as out:
        write_text(out / "a.txt", "1")
        write_text(out / "b.txt", "1")
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]
