"""Titles are found as they are typed."""

import random
import time

import pytest

from hf_genrec.serving.demo.name_search import NameSearch, searchable

TITLES = [
    "Star Wars (1977)",
    "Lone Star (1996)",
    "Stargate (1994)",
    "Mustard",
    "Amélie",
    "アキラ",
    "Star Trek: 2",
    "!!!",
]
SEARCH = NameSearch(TITLES, [f"i{place}" for place in range(8)], [5, 9, 1, 2, 3, 4, 8, 0])


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("star", [6, 0, 2, 1, 3]),  # begins with it (the most popular first), then the word, then a part of one
        ("STAR  wars", [0]),
        ("wars star", [0]),
        ("star 19", [1, 0, 2]),
        ("amelie", [4]),
        ("AMÉ", [4]),
        ("アキ", [5]),
        ("i7", [7]),  # an id, given whole
        ("star x", []),
        ("(", []),
        ("", [1, 6, 0, 5, 4, 3, 2, 7]),
        ("  ", [1, 6, 0, 5, 4, 3, 2, 7]),
    ],
)
def test_order(query, found):
    assert SEARCH.find(query, 8) == found
    assert SEARCH.find(query, 2) == found[:2]


def test_an_id_stands_before_titles():
    search = NameSearch(["7 samurai", "other", "seven 7"], ["a", "7", "c"])
    assert search.find("7") == [1, 0, 2]
    assert search.find("7", 1) == [1]


def test_any_query_is_answered():
    rng = random.Random(0)
    for _ in range(300):
        query = "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0xD800), 0x1F600])) for _ in range(20))
        assert all(0 <= place < len(TITLES) for place in SEARCH.find(query))
    assert SEARCH.find("a" * 10**6) == []
    assert NameSearch([]).find("") == []
    assert searchable("\x00İstanbul​") == "istanbul"


def test_tens_of_thousands_of_titles_are_searched_while_typing():
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randrange(2, 9))) for _ in range(4000)]
    search = NameSearch([" ".join(rng.choices(words, k=5)) for _ in range(20_000)])
    seconds = []
    for query in ("a", "ab", "abc d", words[7]):
        begin = time.process_time()
        search.find(query)
        seconds.append(time.process_time() - begin)
    assert max(seconds) < 0.3
