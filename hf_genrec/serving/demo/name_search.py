"""Type-ahead search over the titles of a catalogue, or over any other names."""

import heapq
import unicodedata
from collections.abc import Sequence

MAX_QUERY = 200  # characters that are read


def searchable(text: str) -> str:
    """
    Letters and digits without case and accents, words apart by one space.

    ```python
    >>> searchable("Amélie (2001)")
    'amelie 2001'
    ```
    """
    letters = unicodedata.normalize("NFKD", text).casefold()
    return " ".join("".join(letter if letter.isalnum() else " " for letter in letters if _kept(letter)).split())


def _kept(letter: str) -> bool:
    return not unicodedata.combining(letter)


class NameSearch:
    """
    Args:
        names: (N,) what people read, of which every word of a query must be a part.
        ids: (N,) other names, which must be given whole.
        popularity (*optional*): (N,) the more popular of equally good finds stand first.
    """

    def __init__(self, names: Sequence[str], ids: Sequence[str] = (), popularity: Sequence[int] | None = None):
        self._texts = [f" {searchable(name)} " for name in names]
        self._place_of = {name: place for place, name in enumerate(ids)}
        self._popularity = [0] * len(names) if popularity is None else [int(number) for number in popularity]

    def find(self, query: str, limit: int = 6) -> list[int]:
        """
        Places of the names that fit best: that of the id that is the query, then names that begin with the query, names
        with its words, names with words that begin so, other names that hold them; the most popular of all for an
        empty query.
        """
        query = query[:MAX_QUERY].strip()
        text = searchable(query)
        words = sorted(text.split(), key=len, reverse=True)
        if query and not words and query not in self._place_of:
            return []
        places = range(len(self._texts)) if not query or words else []
        for word in words:
            places = [place for place in places if word in self._texts[place]]
        found = heapq.nsmallest(limit, places, key=lambda place: self._order(place, text, words))
        if query in self._place_of:
            exact = self._place_of[query]
            found = [exact, *(place for place in found if place != exact)][:limit]
        return found

    def _order(self, place: int, text: str, words: Sequence[str]) -> tuple[int, int, int]:
        name = self._texts[place]
        fits = (
            name.startswith(f" {text}"),
            all(f" {word} " in name for word in words),
            all(f" {word}" in name for word in words),
            True,
        )
        return fits.index(True), -self._popularity[place], place
