"""Steam reviews and games, as they are distributed: a mapping a line, as Python writes it.

    tables = load("steam_reviews.json.gz", "steam_games.json.gz")
    tables["interactions"], tables["items"]

A user is a `username`, which the source does not promise to be one person's. A date is a day: reviews of one day stand
in the order of the file. There are no ratings; `hours` of play are not read.

W.-C. Kang, J. McAuley: Self-Attentive Sequential Recommendation (ICDM 2018).
"""

from collections.abc import Iterator
from typing import Any

import datasets

from hf_genrec.dataset_scripts.rows import checked
from hf_genrec.dataset_scripts.table_file import text_lines
from hf_genrec.dataset_scripts.two_files import (
    TwoFiles,
    dated_review,
    joined_text,
    load_two_files,
    parse_mapping,
    require_id,
)


class Steam(TwoFiles):
    """Configs: `interactions` and `items`."""

    FURTHER = ("developer", "publisher", "price")

    def interactions(self, path: str) -> Iterator[dict[str, Any]]:
        return checked(path, text_lines(path), _review)

    def items(self, path: str) -> Iterator[dict[str, Any]]:
        # Two of the games have no id, and no review names them.
        return (game for game in checked(path, text_lines(path), _game) if game["item_id"] is not None)


def load(
    path: str, item_path: str | None = None, cache_dir: str | None = None, streaming: bool = False
) -> dict[str, datasets.Dataset]:
    """As [`load_two_files`], from a file of reviews and, optionally, one of games."""
    return load_two_files(Steam, path, item_path, cache_dir, streaming)


def _review(line: str) -> dict[str, Any]:
    return dated_review(parse_mapping(line), "username", "product_id")


def _game(line: str) -> dict[str, Any]:
    game = parse_mapping(line)
    return {
        "item_id": None if game.get("id") is None else require_id(game["id"], "id"),
        "title": joined_text(game.get("app_name") or game.get("title"), " "),
        "description": None,
        "categories": joined_text([game.get("genres"), game.get("tags")], ", "),
        **{name: joined_text(game.get(name), ", ") for name in Steam.FURTHER},
    }
