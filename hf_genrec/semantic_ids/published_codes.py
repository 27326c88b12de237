"""Semantic IDs that others published: LETTER/TIGER JSON, or TSV."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.cells import shown

from .collisions import count_collisions
from .ids import SemanticIds

logger = logging.getLogger(__name__)

MAX_CODE = 2**20 - 1  # a codebook as large as the largest code is made, each code of it a token
TOKEN = re.compile(r"<([a-z])_(\d+)>")


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
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            item_id, tab, tokens = line.rstrip("\r\n").partition("\t")
            if not tab or not item_id:
                raise ValueError(
                    f"{path}, line {number}: expected item_id, a tab and the codes, found {line.strip()!r}"
                )
            _add(published, item_id, tokens.split(), f"{path}, line {number}")
    return published


def _read_json(path: Path) -> dict[str, list[int]]:
    try:
        # Pairs, because a dict would silently keep only the last of two entries for one item
        pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: this is not JSON ({error.msg})") from error
    except RecursionError:
        raise ValueError(f"{path}: this is not JSON that can be read (nested too deeply)") from None
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise ValueError(f"{path}: this is not JSON that can be read ({error})") from None
    published: dict[str, list[int]] = {}
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ValueError(f'{path}, line 1: expected an object {{"item": ["<a_12>", ...], ...}}')
    for item_id, tokens in pairs:
        _add(published, item_id, tokens, f"{path}, item {item_id!r}")
    return published


def _add(published: dict[str, list[int]], item_id: str, tokens: Any, place: str) -> None:
    if item_id in published:
        raise ValueError(f"{place}: item {item_id!r} has codes already; an item stands in the file once")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError(f"{place}: expected a list of codes, found {tokens!r}")
    codes = [_code(token, level, place) for level, token in enumerate(tokens)]
    levels = len(next(iter(published.values()), codes))
    if len(codes) != levels:
        raise ValueError(f"{place}: {len(codes)} codes, but the items before have {levels}")
    published[item_id] = codes


def _code(token: Any, level: int, place: str) -> int:
    if isinstance(token, int) and not isinstance(token, bool) and token >= 0:
        return _bounded(token, token > MAX_CODE, level, place)
    match = TOKEN.fullmatch(token) if isinstance(token, str) else None
    letter = chr(ord("a") + level)
    if match is None or match[1] != letter:
        raise ValueError(f"{place}, level {level}: found {token!r}, expected <{letter}_number>")
    return _bounded(match[2], len(match[2].lstrip("0")) > len(str(MAX_CODE)) or int(match[2]) > MAX_CODE, level, place)


def _bounded(code: int | str, is_beyond: bool, level: int, place: str) -> int:
    if is_beyond:
        raise ValueError(f"{place}, level {level}: code {shown(code)} is above {MAX_CODE:,}: number codes from 0")
    return int(code)
