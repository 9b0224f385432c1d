"""Downloads a model of the catalogue: for the command line alone, so nothing below the top of the library may import it.

Transport, addresses, tokens and errors are huggingface_hub's; what it leaves open is done here, for every version of it
alike: a download that broke off goes on where it stopped, also in another run, a file takes the place of an older one
only when all files of the model have arrived and were checked, and what stands in the way is said in one sentence.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from .models.pretrained.catalogue import PLAIN, Pretrained, alternatives, kept_as
from .models.pretrained.files import ModelError, check_pickle, check_safetensors, said

WORKSHOP = ".download"
"""Folder in the model's own, so that moving a file out of it is atomic; a list of models leaves it out."""

BESIDE = (".json", ".txt", ".model", ".jinja")
"""Endings of small files that are taken along: settings, vocabularies, templates."""
SMALL = 50_000_000
"""Bytes up to which a file beside the weights is small."""
LICENCE = ("LICENSE", "LICENCE", "NOTICE")

SPARE = 100_000_000
"""Bytes that stay free on the disk."""

TRIES, PAUSE = 4, 1.0
"""How often in a row nothing may arrive, and for how many seconds longer each time it waits."""

SECONDS = 20.0
"""How long a server may take to answer a question about a file."""

CHUNK = 1 << 18
"""Bytes that are written at once, which is what is lost where a connection breaks off. With huggingface_hub's own 10 MB a
download would never get ahead on a line that breaks off more often than that."""

NETWORK = ("requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2", "socket", "ssl")
"""Packages whose errors mean that the connection failed, in the generations of huggingface_hub."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Moved = Callable[[int], None]
"""Told of bytes as they arrive; negative where some have to come again."""


@dataclass(frozen=True)
class Part:
    """A file to download.

    Attributes:
        url: its address; name: where it is kept in the model's folder.
        size: in bytes; digest: sha256 (64 hex digits, or the first 8 of them), git's (40), or "" where unknown.
    """

    url: str
    name: str
    size: int
    digest: str

    @property
    def partial(self) -> str:
        """Name of what has arrived; another version of the file gets another one."""
        return f"{self.name.replace('/', '--')}.{self.digest[:12] or self.size}"


# ------------------------------------------------------------------------------------------------ the plan


@dataclass(frozen=True)
class Plan:
    """What is to be downloaded.

    Attributes:
        folder: the model's; parts: all of its files; missing: those that are not there as published.
        arrived: bytes of the missing parts that an earlier run brought.
    """

    entry: Pretrained
    folder: Path
    parts: tuple[Part, ...]
    missing: tuple[Part, ...]
    arrived: int

    @property
    def size(self) -> int:
        """Bytes of the missing parts."""
        return sum(part.size for part in self.missing)


def plan(entry: Pretrained, folder: Path) -> Plan:
    """Ask the server for the files of a model, and look at what is there already.

    Raises:
        ModelError: no network, no such repository or file, no access, not enough space, a folder that cannot be written;
            in one sentence with what to do.
    """
    with _explained(entry):
        parts = _plain_parts(entry) if entry.elsewhere else _hub_parts(entry)
    missing = tuple(part for part in parts if not _as_published(folder / part.name, part))
    arrived = sum(_size(folder / WORKSHOP / part.partial, part.size) for part in missing)
    made = Plan(entry, folder, tuple(parts), missing, arrived)
    free = shutil.disk_usage(_existing(folder)).free
    needed = made.size - arrived + (SPARE if missing else 0)
    if free < needed:
        raise ModelError(
            f"{entry.key} needs {_gigabytes(needed)} of free space, but the disk of {folder} has {_gigabytes(free)}; "
            "make room, or choose another disk with --to"
        )
    return made


def _endpoint() -> str | None:
    # Read here and not when huggingface_hub is first imported, which may be long before.
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _hub_parts(entry: Pretrained) -> list[Part]:
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    endpoint = _endpoint()
    info = HfApi(endpoint=endpoint).model_info(entry.repository, timeout=SECONDS)
    published = [sibling.rfilename for sibling in info.siblings or ()]
    parts = []
    for name in _chosen(entry, published):
        # By its commit, so that all files are of one version.
        url = hf_hub_url(entry.repository, name, revision=info.sha, endpoint=endpoint)
        about = get_hf_file_metadata(url, timeout=SECONDS)
        if about.size is None:
            raise ModelError(f"the server does not say how long {url} is; try another HF_ENDPOINT")
        if about.size > SMALL and name not in _needed(entry, published):
            continue
        digest = about.etag if about.etag and len(about.etag) in (40, 64) else ""
        parts.append(Part(url, kept_as(name), about.size, digest))
    return parts


def _plain_parts(entry: Pretrained) -> list[Part]:
    """Files of a server that is no Hub: the first digits of their sha256 are in their names, as torch.hub has it."""
    from huggingface_hub import get_hf_file_metadata

    parts = []
    for name in entry.files:
        about = get_hf_file_metadata(f"{entry.repository}/{name}", token=False, timeout=SECONDS)
        if about.size is None:
            raise ModelError(
                f"{entry.repository} does not say how long {name} is; download it with a browser"
            )
        parts.append(Part(about.location, name, about.size, name.rpartition(".")[0].rpartition("-")[2]))
    return parts


def _needed(entry: Pretrained, published: Sequence[str]) -> list[str]:
    """Of each file the preferred one that is published, with all parts of weights in parts.

    Raises:
        ModelError: none is.
    """
    found = []
    for file in entry.files:
        names = alternatives(file)
        name = next((one for one in names if one in published), None)
        if name is None:
            raise ModelError(
                f"{entry.page} has none of {', '.join(names)} any more; see that page for what became of it, "
                f"and copy the files into {entry.folder} by hand"
            )
        found.append(name)
        if name.endswith(".index.json"):
            stem, ending = name.removesuffix(".index.json").rsplit(".", 1)
            found += [one for one in published if one.startswith(f"{stem}-") and one.endswith(f".{ending}")]
    return found


def _chosen(entry: Pretrained, published: Sequence[str]) -> list[str]:
    """What is needed, and the small files beside it."""
    needed = _needed(entry, published)
    folders = {str(PurePosixPath(name).parent) for name in needed}
    beside = [
        name
        for name in published
        if name not in needed
        and str(PurePosixPath(name).parent) in folders
        and (
            (name.endswith(BESIDE) and not name.endswith(".index.json"))
            or PurePosixPath(name).name.startswith(LICENCE)
        )
    ]
    return [*needed, *sorted(beside)]


# -------------------------------------------------------------------------------------------- the download


def download(made: Plan, moved: Moved = lambda count: None) -> Path:
    """Download what a plan lacks and put it in place; returns the model's folder.

    Args:
        moved: told of bytes as they arrive.

    Raises:
        ModelError: as `plan`, a connection that stays broken, or a file that arrives damaged. What has arrived stays and is
            gone on with by the next call; files that were in place before are untouched.
    """
    from huggingface_hub.utils import WeakFileLock

    workshop = made.folder / WORKSHOP
    if not made.missing:
        return made.folder
    try:
        workshop.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"{made.folder} cannot be made ({said(error)}); choose another folder with --to"
        ) from error
    try:
        with WeakFileLock(workshop / "lock", timeout=1.0), _explained(made.entry), _our_way():
            for part in made.missing:
                _fetch(made.entry, part, workshop / part.partial, moved)
            _put_in_place(made)
    except TimeoutError as error:
        raise ModelError(
            f"another download into {made.folder} is under way; wait until it is done"
        ) from error
    shutil.rmtree(workshop, ignore_errors=True)
    return made.folder


def _fetch(entry: Pretrained, part: Part, path: Path, moved: Moved) -> None:
    """Bring a part as far as it is not there, in as many connections as it takes, and check it."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers(token=False if entry.elsewhere else None)
    headers["Accept-Encoding"] = "identity"  # so that bytes on the way are bytes of the file
    if path.is_file() and path.stat().st_size > part.size:
        path.unlink()
    most, failures = _size(path, part.size), 0
    while True:
        with path.open("ab") as file:
            try:
                http_get(
                    part.url,
                    _Counted(file, moved),  # type: ignore[arg-type]
                    resume_size=file.tell(),
                    headers=headers,
                    expected_size=part.size,
                )
                os.fsync(file.fileno())
                break
            except Exception as error:
                if not _broke_off(error):
                    raise
                file.flush()
                failures = 0 if file.tell() > most else failures + 1
                most = max(most, file.tell())
                if failures >= TRIES:
                    raise ModelError(
                        f"the connection broke off {TRIES} times after {most} of {part.size} bytes of {part.name}; "
                        "run the same command again later, it goes on from there"
                    ) from error
        time.sleep(PAUSE * failures)
    _check(part, path, moved)


class _Counted:
    """A file that tells how many bytes are written to it, and takes back those that are cut off."""

    def __init__(self, file: BinaryIO, moved: Moved) -> None:
        self._file, self._moved, self.name = file, moved, file.name

    def write(self, data: bytes) -> int:
        self._moved(len(data))
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, *where: int) -> int:
        return self._file.seek(*where)

    def truncate(self) -> int:
        there = self._file.tell()
        self._moved(there - self._file.seek(0, os.SEEK_END))
        self._file.seek(there)
        return self._file.truncate()

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


def _check(part: Part, path: Path, moved: Moved) -> None:
    """Raise ModelError for a damaged file, and put it away so that the next run does not go on with it."""
    try:
        if not _digest_fits(path, part.digest):
            raise ModelError(f"{part.name} arrived damaged: its checksum is not the published one")
        if part.name.endswith(PLAIN):
            check_safetensors(path)
        elif part.name.endswith((".bin", ".pth")):
            check_pickle(path)
        elif part.name.endswith(".json"):
            json.loads(path.read_bytes())
    except (ModelError, ValueError) as error:
        moved(-path.stat().st_size)
        path.unlink()
        what = str(error) if isinstance(error, ModelError) else f"{part.name} is no JSON"
        raise ModelError(
            f"{what.split(';')[0]}; run the same command again, and if that does not help look at {part.url}"
        ) from error


def _digest_fits(path: Path, digest: str) -> bool:
    if not digest:
        return True
    git = len(digest) == 40
    hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if git else hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest().startswith(digest)


def _as_published(path: Path, part: Part) -> bool:
    """Whether a file is in place already; one whose digest nobody knows is downloaded again."""
    if not part.digest or not path.is_file():
        return False
    return path.stat().st_size == part.size and _digest_fits(path, part.digest)


def _put_in_place(made: Plan) -> None:
    """Move all parts out of the workshop; those that tell what the folder is come last."""
    for part in sorted(made.missing, key=lambda one: (one.name.endswith(".json"), "/" not in one.name)):
        target = made.folder / part.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made.folder / WORKSHOP / part.partial, target)


def _size(path: Path, most: int) -> int:
    """Bytes of a file that may count as arrived: none where there is no file, or a longer one."""
    size = path.stat().st_size if path.is_file() else 0
    return size if size <= most else 0


def _existing(folder: Path) -> Path:
    """The nearest folder above that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


# ------------------------------------------------------------------------------------------------ sentences


@contextmanager
def _our_way() -> Iterator[None]:
    """Within the block huggingface_hub writes small chunks, draws no bars and logs nothing; one bar is for all files."""
    import warnings

    from huggingface_hub import constants
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    level, drawn = logging.get_verbosity(), not are_progress_bars_disabled()
    chunk, constants.DOWNLOAD_CHUNK_SIZE = constants.DOWNLOAD_CHUNK_SIZE, CHUNK
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.CRITICAL)
        disable_progress_bars()
        try:
            yield
        finally:
            constants.DOWNLOAD_CHUNK_SIZE = chunk
            logging.set_verbosity(level)
            if drawn:
                enable_progress_bars()


@contextmanager
def _explained(entry: Pretrained) -> Iterator[None]:
    """What a server or the system refuses within the block becomes a ModelError of one sentence."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        sentence = _explanation(error, entry)
        if sentence is None:
            raise
        raise ModelError(sentence) from error


def _explanation(error: BaseException, entry: Pretrained) -> str | None:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return (
            f"{entry.repository} is gated: ask for access at {entry.page}, log in with hf auth login (older versions: "
            "huggingface-cli login), then run the same command again"
        )
    if isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError)):
        return (
            f"{entry.repository} is not there, or is private; look at {entry.page}, and log in with hf auth login if you "
            "have access"
        )
    if isinstance(error, EntryNotFoundError):
        return f"{entry.repository} changed meanwhile ({said(error)}); run the same command again"
    if isinstance(error, HfHubHTTPError):
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            return (
                f"access to {entry.repository} was refused ({status}); look at {entry.page} for its conditions, and log in "
                "anew with hf auth login"
            )
        return f"{_server()} cannot give {entry.repository} now ({said(error)}); run the same command again later"
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE forbids downloads; unset it, or copy the files of {entry.page} by hand"
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"the disk is full; make room, or choose another disk with --to, and get {entry.key} again"
    if _from_network(error):
        return (
            f"{_server()} cannot be reached ({said(error)}); check the network, or set HF_ENDPOINT to a mirror, or copy the "
            f"files of {entry.page} by hand"
        )
    if isinstance(error, OSError):
        return f"{entry.key} cannot be written ({said(error)}); choose another folder with --to"
    return None


def _server() -> str:
    return _endpoint() or "https://huggingface.co"


def _from_network(error: BaseException) -> bool:
    """By the package of the error's class, because the generations of huggingface_hub talk through different ones."""
    return any(cls.__module__.partition(".")[0] in NETWORK for cls in type(error).__mro__)


def _broke_off(error: BaseException) -> bool:
    """Whether a transfer may be gone on with: the connection failed, or fewer bytes came than were promised."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, (HfHubHTTPError, OfflineModeIsEnabled)):
        status = getattr(getattr(error, "response", None), "status_code", 0)
        return bool(status in (408, 429) or status >= 500)
    short = type(error) is OSError and error.errno is None  # http_get's own complaint about the length
    return short or _from_network(error) or isinstance(error, (ConnectionError, TimeoutError))
