"""Pictures on disk: reading whatever Pillow opens as an IMAGE, and writing so that nothing partial is left behind."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from .tensors.checks import InputWarning, check_image, check_mask

SIXTEEN_BITS = 65535
"""White in a 16-bit picture."""

# ------------------------------------------------------------------------------------------------- reading


def read_picture(path: str | os.PathLike[str]) -> Tensor:
    """Read a picture as IMAGE [1,H,W,3] float32 in 0..1.

    Greyscale, palette and CMYK become RGB; EXIF rotation is applied; 16-bit greyscale keeps its precision. Where
    something of the file is not used, an `InputWarning` says so: transparency (put on white), every frame but the
    first, and the lower 8 bits of 16-bit colour, which Pillow does not deliver.

    A picture read from 8 bits per channel and written with `write_picture` has identical pixels.

    Raises:
        ValueError: no such file, a folder, unreadable or truncated, larger than Pillow's safety limit, a side under
            16 px, or a floating point picture outside 0..1.
    """
    path = Path(path)
    with _opened(path) as picture:
        _warn_about_frames(picture, path)
        _warn_about_depth(picture, path)
        pixels = _rgb(ImageOps.exif_transpose(picture), path)
    return check_image(torch.from_numpy(pixels)[None], f"picture {path.name}")


def colour_profile(path: str | os.PathLike[str]) -> bytes | None:
    """The ICC profile of an RGB picture, or None; hand it to `write_picture` so that colours look the same.

    Raises:
        ValueError: as `read_picture`.
    """
    with _opened(Path(path)) as picture:
        profile = picture.info.get("icc_profile")
    is_rgb = isinstance(profile, bytes) and profile[16:20] == b"RGB "
    return profile if is_rgb else None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The decoded picture; every failure of a decoder, also one inside the block, becomes one sentence."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name one picture in it")
    if not path.exists():
        raise ValueError(f"{path} does not exist; check the path")
    try:
        with Image.open(path) as picture:
            picture.load()
            yield picture
    except (_Refused, Warning):
        raise
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a picture that can be read; save it as PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise ValueError(f"{path} has more than {limit} megapixels; scale it down first") from error
    except PermissionError as error:
        raise ValueError(f"{path} may not be read; change its permissions") from error
    except (
        Exception
    ) as error:  # on damaged files decoders raise anything: struct.error, TypeError, IndexError, ...
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} is damaged or cut short ({reason}); export or download it again") from error


class _Refused(ValueError):
    """A sentence that is already what the caller should read."""


def _warn_about_frames(picture: Image.Image, path: Path) -> None:
    frames = getattr(picture, "n_frames", 1)
    if (
        frames > 1 and picture.format != "MPO"
    ):  # phones hide a second view in an MPO that nobody calls a frame
        _warn(f"{path.name} has {frames} frames; only the first is used")


def _warn_about_depth(picture: Image.Image, path: Path) -> None:
    # Pillow has dropped the tiles by the time the pixels are loaded, so the header is opened once more.
    if picture.mode not in ("RGB", "RGBA", "LA"):
        return
    with Image.open(path) as header:
        raw_modes = {str(part) for tile in header.tile for part in _as_tuple(tile[3])}
    if any(";16" in mode for mode in raw_modes):
        _warn(f"{path.name} has 16 bits per channel; its upper 8 bits are used")


def _as_tuple(args: object) -> tuple[object, ...]:
    return args if isinstance(args, tuple) else (args,)


def _rgb(picture: Image.Image, path: Path) -> np.ndarray:
    """Pixels [H,W,3] float32 in 0..1."""
    if picture.mode.startswith("I"):
        return _grey(np.asarray(picture, dtype=np.float32) / SIXTEEN_BITS, path)
    if picture.mode == "F":
        return _grey(np.asarray(picture, dtype=np.float32), path)
    if picture.mode == "CMYK":
        picture = _from_cmyk(picture, path)
    if picture.has_transparency_data:
        picture = _on_white(picture.convert("RGBA"), path)
    picture = picture.convert("RGB")
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def _grey(values: np.ndarray, path: Path) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise _Refused(
            f"{path} holds values in [{low:g}, {high:g}] where 0..1 is white; export it as 8 or 16-bit PNG"
        )
    return np.repeat(values[..., None], 3, axis=2)


def _on_white(picture: Image.Image, path: Path) -> Image.Image:
    low, _ = picture.getchannel("A").getextrema()
    if low == 255:
        return picture
    _warn(f"{path.name} is partly transparent; it was put on white")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def _from_cmyk(picture: Image.Image, path: Path) -> Image.Image:
    profile = picture.info.get("icc_profile")
    if not profile:
        _warn(f"{path.name} is CMYK without a colour profile; its colours are approximate")
        return picture.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except ImageCms.PyCMSError:
        converted = None
    if converted is None:
        _warn(f"{path.name} has an unusable CMYK colour profile; its colours are approximate")
        return picture.convert("RGB")
    return converted


def _warn(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=2)


# ------------------------------------------------------------------------------------------------- writing


def to_pillow(image: Tensor) -> Image.Image:
    """IMAGE [1,H,W,3] or [H,W,3] in 0..1 -> 8-bit RGB, rounded to nearest, values outside clamped."""
    image = image[0] if image.ndim == 4 else image
    return Image.fromarray(_eight_bits(image), "RGB")


def write_picture(path: str | os.PathLike[str], image: Tensor, *, profile: bytes | None = None) -> Path:
    """Write one IMAGE [1,H,W,3] as 8-bit PNG, whole or not at all.

    Raises:
        ValueError: a name that does not end in .png, or an image that `check_image` refuses.
        OSError: the file cannot be written.
    """
    return write_drawing(path, to_pillow(check_image(image, batch=1)), profile=profile)


def write_mask(path: str | os.PathLike[str], mask: Tensor) -> Path:
    """Write one MASK [1,H,W] or [H,W] as 8-bit greyscale PNG, white = edited; errors as `write_picture`."""
    return write_drawing(path, Image.fromarray(_eight_bits(check_mask(mask)[0]), "L"))


def write_drawing(
    path: str | os.PathLike[str], picture: Image.Image, *, profile: bytes | None = None
) -> Path:
    """Write a Pillow picture as PNG, whole or not at all; errors as `write_picture`."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path.name} must end in .png, because only PNG keeps every pixel; rename it")
    with _whole(path) as part, part.open("xb") as file:
        picture.save(file, format="PNG", **({"icc_profile": profile} if profile else {}))
    return path


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    with _whole(path) as part, part.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
    return path


def _eight_bits(values: Tensor) -> np.ndarray:
    scaled = values.detach().float().clamp(0, 1).mul(255).round()
    return np.ascontiguousarray(scaled.to(torch.uint8).cpu().numpy())


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place only once everything is written.

    Not `tempfile`: that makes files that only their owner may read.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Return `folder` if files can be written to it, or if it does not exist yet but can be made.

    Leaves nothing behind. To be called before any long work.

    Raises:
        ValueError: it is a file, or it or its nearest existing parent refuses new files.
    """
    folder = Path(folder)
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(
            f"output folder {folder} cannot be made, because {existing} is a file; choose another folder"
        )
    # Permission bits lie for administrators, read-only mounts and network drives: only trying tells.
    probe = existing / f".{secrets.token_hex(4)}.part"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ValueError(
            f"output folder {folder} cannot be written ({reason}); choose another folder"
        ) from error
    return folder


class OutputFolder:
    """A set of files that appears in a folder all at once, or not at all.

    ```
    with OutputFolder("out") as out:
        write_picture(out / "result.png", image)
        write_text(out / "report.json", text)
    ```

    Files are written to a hidden folder inside the target, so that moving them never crosses file systems, and take
    their places when the block ends without an error; older files of the same names are replaced, others stay.

    Raises:
        ValueError: on entering, as `check_writable`; at the end, where a folder has the name of a file to be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._staging = self.folder / f".{secrets.token_hex(4)}.part"
        self._made: list[Path] = []

    def __truediv__(self, name: str) -> Path:
        """Where to write the file that will be called `name`."""
        return self._staging / name

    def __enter__(self) -> OutputFolder:
        check_writable(self.folder)
        for parent in [*reversed(self.folder.parents), self.folder]:
            if not parent.exists():
                parent.mkdir(exist_ok=True)
                self._made.append(parent)
        self._staging.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._move()
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
            for folder in reversed(self._made):
                with suppress(OSError):  # not empty: it holds what was asked for
                    folder.rmdir()

    def _move(self) -> None:
        files = sorted(self._staging.iterdir())
        for file in files:
            if (self.folder / file.name).is_dir():
                raise ValueError(
                    f"{self.folder / file.name} is a folder; remove it or choose another output folder"
                )
        for file in files:
            os.replace(file, self.folder / file.name)
