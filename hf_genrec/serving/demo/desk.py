"""What the demo's page asks for, answered as HTML: everything but the page itself, and without Gradio."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from hf_genrec.serving.demo.drawing import buttons, draw_answer, draw_explanations, draw_history
from hf_genrec.serving.demo.name_search import NameSearch
from hf_genrec.serving.demo.opened_run import Answer, OpenedRun, open_run

MOST, USUAL = 20, 10  # items of a list


class Desk:
    """
    One model, or two side by side. Titles are those of the first one; users those of the first one that has any.

    A history is a list of item ids, oldest first. What a browser says was clicked is a mapping of strings, in which
    anything may stand: what makes no sense changes nothing.

    Args:
        runs: one or two.

    Raises:
        ValueError: for more than two, or two that have no item in common.
    """

    def __init__(self, runs: Sequence[OpenedRun]):
        if not 1 <= len(runs) <= 2:
            raise ValueError(f"{len(runs)} runs: the demo shows one model, or two side by side")
        if len(runs) == 2 and not set(runs[0].item_ids) & set(runs[1].item_ids):
            raise ValueError(
                f"{runs[0].name} and {runs[1].name} have no item in common: name two runs on the same data"
            )
        self.runs = list(runs)
        first = self.runs[0]
        self.titles = NameSearch(first.titles, first.item_ids, first.model.processor.popularity)
        self.users = next((run.users for run in self.runs if run.users), {})
        self.user_ids = list(self.users)
        self._user_search = NameSearch(self.user_ids, self.user_ids)

    @property
    def name(self) -> str:
        return " and ".join(f"{run.method.title} ({run.name})" for run in self.runs)

    @property
    def exclude_seen(self) -> bool:
        """Whether the page begins with lists that leave the history out: as the first model does by default."""
        return self.runs[0].model.processor.exclude_seen

    # ---- the history ----

    def find_titles(self, query: Any) -> str:
        """Titles to add; the most popular ones for an empty query."""
        query = query if isinstance(query, str) else ""
        return buttons("add", self.runs[0].titles, self.titles.find(query), "No title holds all of these words.")

    def find_users(self, query: Any) -> str:
        """Users to take; none for an empty query."""
        if not isinstance(query, str) or not query.strip():
            return ""
        return buttons("user", self.user_ids, self._user_search.find(query, 4), "No user of that name.")

    def show_history(self, history: Sequence[str]) -> str:
        return draw_history([self._title(item_id) for item_id in history], self.runs)

    def _title(self, item_id: str) -> str:
        knows = next((run for run in self.runs if item_id in run.model.processor), None)
        return item_id if knows is None else knows.titles[int(knows.model.processor.rows([item_id])[0])]

    def add(self, history: list[str], clicked: Any) -> list[str]:
        """The history with one more item."""
        place = place_clicked(clicked, "add", len(self.runs[0].item_ids))
        return history if place is None else [*history, self.runs[0].item_ids[place]]

    def take_out(self, history: list[str], clicked: Any) -> list[str]:
        """The history without one of its items."""
        place = place_clicked(clicked, "out", len(history))
        return history if place is None else [*history[:place], *history[place + 1 :]]

    def take_user(self, clicked: Any) -> tuple[str, list[str]] | None:
        """A user's id and history."""
        place = place_clicked(clicked, "user", len(self.user_ids))
        return None if place is None else (self.user_ids[place], self.users[self.user_ids[place]])

    def name_user(self, query: Any) -> tuple[str, list[str]] | None:
        """Id and history of the user of this id, or of the first one whose id fits."""
        found = self._user_search.find(query, 1) if isinstance(query, str) and query.strip() else []
        return None if not found else (self.user_ids[found[0]], self.users[self.user_ids[found[0]]])

    def any_user(self) -> tuple[str, list[str]]:
        """A user's id and history, drawn at random."""
        user = random.choice(self.user_ids)
        return user, self.users[user]

    # ---- what comes next ----

    def recommend(self, history: list[str], k: Any, exclude_seen: Any) -> tuple[list[Answer], list[str]]:
        """What each model answers; its list, and the reasons for the very first item, as HTML."""
        k = int(min(max(k, 1), MOST)) if isinstance(k, int | float) and k == k else USUAL
        answers = [run.recommend(history, k, bool(exclude_seen)) for run in self.runs]
        place = next((place for place, answer in enumerate(answers) if answer.items), None)
        return answers, self._draw(answers, None if place is None else (place, answers[place].items[0]))

    def explain(self, answers: Sequence[Answer], clicked: Any) -> list[str] | None:
        """The lists with another item chosen, and the reasons for it; `None` where nothing is to change."""
        place = place_clicked(clicked, "run", len(answers))
        item = None if place is None else place_clicked(clicked, "row", len(self.runs[place].item_ids))
        if place is None or item is None or item not in answers[place].items:
            return None
        return self._draw(answers, (place, item))

    def _draw(self, answers: Sequence[Answer], chosen: tuple[int, int] | None) -> list[str]:
        """The lists, and the reasons for the item chosen: the place of its run, and its row."""
        pairs = list(zip(self.runs, answers, strict=True))
        drawn = []
        for place, (run, answer) in enumerate(pairs):
            own = chosen[1] if chosen is not None and chosen[0] == place else None
            drawn.append(draw_answer(run, answer, place, pairs[:place] + pairs[place + 1 :], own))
        if chosen is None:
            return [*drawn, ""]
        run, answer = pairs[chosen[0]]
        return [*drawn, draw_explanations(run, chosen[1], run.explain(answer, chosen[1]))]


def place_clicked(clicked: Any, name: str, count: int) -> int | None:
    """The number, from 0 to `count` - 1, that a clicked button bears under a name; `None` for anything else."""
    value = clicked.get(name) if isinstance(clicked, Mapping) else None
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 12:
        return None
    return int(value) if int(value) < count else None


def open_desk(places: Sequence[str]) -> Desk:
    """
    A desk of run folders, saved models or repositories.

    Raises:
        ValueError, OSError: as [`Desk`] and [`open_run`].
    """
    if not 1 <= len(places) <= 2:
        raise ValueError(f"{len(places)} runs: the demo shows one model, or two side by side")
    return Desk([open_run(place) for place in places])
