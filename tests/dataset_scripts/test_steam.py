"""Steam's reviews and games, as they are distributed."""

import gzip

import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.dataset_scripts import load_source

REVIEW = (
    "{u'username': u'Chaos Syren', u'hours': 0.1, u'products': 41, u'product_id': u'725280', u'page_order': 0, "
    "u'date': u'2017-12-17', u'text': u'This would not be acceptable as an entertainment', u'early_access': False, "
    "u'page': 1}"
)
GAME = (
    "{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Casual'], u'app_name': u'Lost Summoner\\xe9', "
    "u'title': u'Lost Summoner', u'url': u'http://x', u'release_date': u'2018-01-04', "
    "u'tags': [u'Strategy', u'Action'], u'discount_price': 4.49, u'specs': [u'Single-player'], u'price': 4.99, "
    "u'early_access': False, u'id': u'725280', u'developer': u'Kotoshiro'}"
)


@pytest.fixture
def load(tmp_path):
    def load(reviews, games=None):
        paths = {}
        for name, lines in (("steam_reviews.json.gz", reviews), ("steam_games.json.gz", games)):
            if lines is not None:
                (tmp_path / name).write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
                paths[name] = str(tmp_path / name)
        log, items = (paths.get(name) for name in ("steam_reviews.json.gz", "steam_games.json.gz"))
        arguments = DataArguments(source="steam", source_path=log, item_path=items)
        return load_source(arguments, cache_dir=str(tmp_path / "cache"))

    return load


def test_reviews_and_games(load):
    tables = load([REVIEW], [GAME, GAME.replace(", u'id': u'725280'", ""), GAME])
    assert list(tables["interactions"]) == [
        {"user_id": "Chaos Syren", "item_id": "725280", "timestamp": 1513468800000, "row": 0, "rating": None}
    ]
    assert list(tables["items"]) == [
        {"item_id": "725280", "title": "Lost Summoneré", "description": None, "categories": "Action, Casual, Strategy",
         "developer": "Kotoshiro", "publisher": "Kotoshiro", "price": "4.99"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reviews", "games", "message"),
    [
        ([REVIEW, "{u'username': "], None, "steam_reviews.json.gz, line 2: neither JSON nor a mapping"),
        ([GAME], None, "line 1: no date: is it the file of reviews?"),
        ([REVIEW.replace("u'Chaos Syren'", "None")], None, "line 1: username is None: text is expected"),
        ([REVIEW.replace("2017-12-17", "December")], None, "line 1: 'December' is not an ISO 8601 time"),
        (
            [REVIEW],
            [GAME.replace("u'725280'", "725280")],
            "steam_games.json.gz, line 1: id is 725280: text is expected",
        ),
    ],
)
def test_bad_lines_are_named(load, reviews, games, message):
    with pytest.raises(ValueError, match=r".") as error:
        load(reviews, games)
    assert message in str(error.value)
