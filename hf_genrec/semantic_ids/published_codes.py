"""Semantic IDs that others published: JSON as LETTER writes it, or TSV."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.catalogue.json_files import read_json
from hf_genrec.catalogue.sizes import LARGEST
from hf_genrec.cells import shown

from .collisions import count_collisions
from .ids import SemanticIds

logger = logging.getLogger(__name__)

TOKEN = re.compile(r"<([a-z])_([0-9]+)>")
MOST_LEVELS = 26  # named by the letters a to z
MOST_CODES = LARGEST["codebook_sizes"]
DIGITS = len(str(MOST_CODES)) + 1


def load_published_codes(
    path: str | Path, item_ids: list[str], codebook_sizes: Sequence[int] | None = None
) -> SemanticIds:
    """Read published codes for the items of a catalogue. They are taken as they are, collisions included.

    A `.json` file maps item ids to lists of tokens or numbers, `{"0": ["<a_12>", "<b_3>"], "1": [7, 0]}`; any other
    file holds one item a line, `item_id<TAB><a_12> <b_3>`. Items that the catalogue lacks are counted and logged.

    Args:
        item_ids: the catalogue, in the order wanted.
        codebook_sizes: codes per level; None for the power of two that holds the largest code, alike for every level.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line or entry that is no code, an item twice, items with different numbers of codes, or items of
            the catalogue without codes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of published codes; correct codes_path")
    published = _read_json(path) if path.suffix == ".json" else _read_tsv(path)
    if not published:
        raise ValueError(f"{path}: the file holds no codes")
    missing = [item_id for item_id in item_ids if item_id not in published]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(item_ids)} items of the catalogue have no codes, the first is "
            f"{missing[0]!r}; use the file made for this catalogue"
        )
    extra = len(published) - len(item_ids)
    if extra:
        logger.warning("%s: %d of %d items are not in the catalogue and are left out", path, extra, len(published))
    levels = len(next(iter(published.values())))
    codes = np.array([published[item_id] for item_id in item_ids], dtype=np.int64).reshape(-1, levels)
    if codebook_sizes is None:
        largest = max(max(row) for row in published.values())
        codebook_sizes = [1 << largest.bit_length()] * levels
    collisions = count_collisions(codes)
    report = {
        "source": path.name,
        "items_in_file": len(published),
        "items_left_out": extra,
        "collisions": {"policy": "keep", "before": collisions, "after": collisions},
    }
    return SemanticIds(list(item_ids), codes, list(codebook_sizes), report)


def _read_tsv(path: Path) -> dict[str, list[int]]:
    published: dict[str, list[int]] = {}
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if not line.isascii() and any("\udc80" <= letter <= "\udcff" for letter in line):
                raise ValueError(f"{path}, line {number}: this is not UTF-8: convert the file")
            item_id, tab, tokens = line.rstrip("\r\n").partition("\t")
            if not tab or not item_id:
                raise ValueError(
                    f"{path}, line {number}: expected item_id, a tab and the codes, found {shown(line.strip())}"
                )
            _add(published, item_id, tokens.split(), f"{path}, line {number}")
    return published


def _read_json(path: Path) -> dict[str, list[int]]:
    # Pairs, because a dict would silently keep only the last of two entries for one item
    pairs = read_json(path, object, "correct the file, or codes_path", pairs=list)
    published: dict[str, list[int]] = {}
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ValueError(f'{path}, line 1: expected an object {{"item": ["<a_12>", ...], ...}}')
    for item_id, tokens in pairs:
        _add(published, item_id, tokens, f"{path}, item {shown(item_id)}")
    return published


def _add(published: dict[str, list[int]], item_id: str, tokens: Any, place: str) -> None:
    if item_id in published:
        raise ValueError(f"{place}: item {shown(item_id)} has codes already; an item stands in the file once")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError(f"{place}: expected a list of codes, found {shown(tokens)}")
    if len(tokens) > MOST_LEVELS:
        raise ValueError(f"{place}: {len(tokens):,} codes, and an item has at most {MOST_LEVELS}")
    codes = [_code(token, level, place) for level, token in enumerate(tokens)]
    levels = len(next(iter(published.values()), codes))
    if len(codes) != levels:
        raise ValueError(f"{place}: {len(codes)} codes, but the items before have {levels}")
    published[item_id] = codes


def _code(token: Any, level: int, place: str) -> int:
    match = TOKEN.fullmatch(token) if isinstance(token, str) else None
    letter = chr(ord("a") + level)
    if match is not None and match[1] == letter:
        code = int(match[2].lstrip("0")[:DIGITS] or "0")  # too large all the same where digits are cut
    elif isinstance(token, int) and not isinstance(token, bool) and token >= 0:
        code = token
    else:
        raise ValueError(f"{place}, level {level}: found {shown(token)}, expected <{letter}_number>")
    if code >= MOST_CODES:
        raise ValueError(
            f"{place}, level {level}: code {shown(token)} is too large, a codebook has at most {MOST_CODES:,} codes: "
            f"number the codes of each level from 0"
        )
    return code
