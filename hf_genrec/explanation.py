"""What a method can show of how it came to an item: titles, numbers and catalogue rows, without a word of how to draw
them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HeatMap:
    """
    How much each of several readers read of each item of a history.

    Attributes:
        readers: (R,) their names.
        notes: (R,) what came of their reading.
        items: (n,) catalogue rows, oldest first.
        values: (R, n) shares of each reader's whole, 0 to 1.
        rest: (R,) what each reader read elsewhere: with `values` it sums to 1.
        rest_name: where that is.
    """

    readers: list[str]
    notes: list[str]
    items: np.ndarray
    values: np.ndarray
    rest: np.ndarray
    rest_name: str


@dataclass(frozen=True)
class Rankings:
    """
    The best items at each of several steps.

    Attributes:
        steps: (S,) their names.
        rows: (S, k) catalogue rows, best first, -1 where there are fewer.
        scores: (S, k), -inf where there are fewer.
        ranks: (S,) where the item asked about stands among all items, from 1; 0 where it is not among them.
        chosen: the step whose ranking was recommended.
    """

    steps: list[str]
    rows: np.ndarray
    scores: np.ndarray
    ranks: list[int]
    chosen: int


@dataclass(frozen=True)
class CodePath:
    """
    An item's codes in the order in which they are written, and the items that each leaves.

    Attributes:
        tokens: (L,) the codes.
        notes: (L,) what is to be said of each choice, may be empty strings.
        left: (L,) catalogue rows of the items that have this code and all codes before it, the most popular first; the
            item itself among them.
    """

    tokens: list[str]
    notes: list[str]
    left: list[np.ndarray]


@dataclass(frozen=True)
class Explanation:
    """
    Attributes:
        title: of the picture.
        about: how to read it, in a sentence or two.
        picture: what it shows.
    """

    title: str
    about: str
    picture: HeatMap | Rankings | CodePath
