"""The HTML of the demo. Titles, ids and names are somebody else's text: all of them pass through [`escaped`]."""

import html
from collections.abc import Sequence

import numpy as np

from hf_genrec.explanation import CodePath, Explanation, HeatMap, Rankings
from hf_genrec.serving.demo.opened_run import Answer, OpenedRun
from hf_genrec.terminal import shown

MAX_LETTERS = 160  # of a name that are shown
NEIGHBOURS = 5  # items named beside each code
KEPT = 60  # newest items of a history that are shown


def plain(text: str) -> str:
    """Somebody else's text where no HTML is read: without control characters, and not endless."""
    return shown(text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 1]}…")


def escaped(text: str) -> str:
    """Somebody else's text in the HTML of the page."""
    return html.escape(plain(text))


def buttons(kind: str, names: Sequence[str], places: Sequence[int], hint: str = "") -> str:
    """Names to choose from; a click says its place."""
    if not places:
        return f'<p class="gr-note">{html.escape(hint)}</p>' if hint else ""
    lines = (
        f'<li><button type="button" data-{kind}="{place}">{escaped(names[place])}</button></li>' for place in places
    )
    return f'<ul class="gr-choices">{"".join(lines)}</ul>'


def draw_history(titles: Sequence[str], runs: Sequence[OpenedRun]) -> str:
    """
    The history as it grows, the newest item first; a click on an item takes it out.

    Args:
        titles: oldest first.
        runs: the models that read it, each its newest `max_history` items.
    """
    read = [run.model.processor.max_history for run in runs]
    if not titles:
        return (
            '<p class="gr-note">Nothing yet: add titles above. Without a history the model says what suits anybody.</p>'
        )
    lines = []
    for place in reversed(range(max(0, len(titles) - KEPT), len(titles))):
        unread = "" if place >= len(titles) - max(read) else ' class="gr-unread"'
        name = escaped(titles[place])
        lines.append(
            f"<li{unread}><span>{name}</span>"
            f'<button type="button" data-out="{place}" aria-label="Take out {name}">&times;</button></li>'
        )
    older = len(titles) - KEPT
    more = f'<p class="gr-note">and {older:,} older ones</p>' if older > 0 else ""
    notes = [
        f'<p class="gr-note">{escaped(run.method.title)} reads the newest {newest:,} of {len(titles):,}.</p>'
        for run, newest in zip(runs, read, strict=True)
        if newest < len(titles)
    ]
    return f'<ol class="gr-history">{"".join(lines)}</ol>{more}{"".join(dict.fromkeys(notes))}'


def draw_answer(
    run: OpenedRun, answer: Answer, place: int, others: Sequence[tuple[OpenedRun, Answer]], chosen: int | None
) -> str:
    """
    A model's list.

    Args:
        place: of the run among those of the page.
        others: the other runs and what they answered, for what is in both lists.
        chosen: catalogue row of the item that is explained, if it is of this list.
    """
    lines = []
    for rank, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), start=1):
        badges = []
        for other, theirs in others:
            ids = [other.item_ids[row] for row in theirs.items]
            if run.item_ids[item] in ids:
                badges.append(f' <span class="gr-badge">also no. {ids.index(run.item_ids[item]) + 1}</span>')
        seen = ' <span class="gr-badge gr-seen">in the history</span>' if item in answer.history else ""
        state = "true" if item == chosen else "false"
        lines.append(
            f'<li><button type="button" data-run="{place}" data-row="{item}" aria-pressed="{state}">'
            f'<span class="gr-rank">{rank}</span><span class="gr-title">{escaped(run.titles[item])}{seen}'
            f'{"".join(badges)}</span><span class="gr-score">{score:.2f}</span></button></li>'
        )
    notes = []
    if answer.left_out:
        notes.append(f"Unknown to this model and left out: {answer.left_out:,} of the history's items.")
    if not lines:
        notes.append("No item is left to recommend.")
    warning = "".join(f'<p class="gr-note gr-warn">{html.escape(note)}</p>' for note in notes)
    return (
        f'<h3 class="gr-model">{escaped(run.method.title)} <small>{escaped(run.name)}</small></h3>{warning}'
        f'<p class="gr-note gr-head"><span>title</span><span>{html.escape(run.method.score_name)}</span></p>'
        f'<ol class="gr-answer">{"".join(lines)}</ol>'
    )


def draw_explanations(run: OpenedRun, item: int, explanations: Sequence[Explanation]) -> str:
    """How a model came to an item."""
    heading = (
        f'<h3 class="gr-model">Why “{escaped(run.titles[item])}”? <small>{escaped(run.method.title)}, '
        f"{escaped(run.name)}</small></h3>"
    )
    if not explanations:
        return f'{heading}<p class="gr-note">Of this method, or without a history, there is nothing to show.</p>'
    parts = []
    for explanation in explanations:
        picture = explanation.picture
        if isinstance(picture, HeatMap):
            drawn = draw_heat_map(run.titles, picture)
        elif isinstance(picture, Rankings):
            drawn = draw_rankings(run.titles, picture, item)
        else:
            drawn = draw_path(run.titles, picture, item)
        parts.append(
            f'<section class="gr-picture"><h4>{escaped(explanation.title)}</h4>'
            f'<p class="gr-note">{html.escape(explanation.about)}</p>{drawn}</section>'
        )
    return heading + "".join(parts)


def draw_heat_map(titles: Sequence[str], picture: HeatMap) -> str:
    """A line per item, the newest first, a column per reader; the darker, the more of it was read."""
    darkest = max(float(picture.values.max(initial=0.0)), 1e-9)
    head = "".join(
        f'<th scope="col">{escaped(reader)}<br>{escaped(note).replace(" ", "<br>")}</th>'
        for reader, note in zip(picture.readers, picture.notes, strict=True)
    )
    lines = []
    for place in reversed(range(len(picture.items))):
        cells = "".join(_cell(value, darkest) for value in picture.values[:, place])
        lines.append(f'<tr><th scope="row">{escaped(titles[picture.items[place]])}</th>{cells}</tr>')
    rest = "".join(f"<td>{value:.0%}</td>" for value in picture.rest)
    lines.append(f'<tr class="gr-rest"><th scope="row">{escaped(picture.rest_name)}</th>{rest}</tr>')
    return (
        f'<div class="gr-scroll"><table class="gr-heat"><thead><tr><th scope="col">item, newest first</th>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(value: float, darkest: float) -> str:
    share = 100 * float(value) / darkest
    return f'<td style="--share:{share:.0f}%">{value:.1%}</td>'


def draw_rankings(titles: Sequence[str], picture: Rankings, item: int) -> str:
    """A list per step, with how far each item has come since the step before."""
    columns = []
    for step, (name, rows) in enumerate(zip(picture.steps, picture.rows, strict=True)):
        lines = []
        for rank, row in enumerate(rows.tolist()):
            if row < 0:
                break
            moved = "" if not step else _moved(np.flatnonzero(picture.rows[step - 1] == row), rank)
            here = ' class="gr-here"' if row == item else ""
            lines.append(f"<li{here}><span>{escaped(titles[row])}</span>{moved}</li>")
        stands = f"this item: no. {picture.ranks[step]:,}" if picture.ranks[step] else "this item is left out"
        chosen = ' <span class="gr-badge">recommended</span>' if step == picture.chosen else ""
        columns.append(
            f'<div class="gr-step"><h5>{escaped(name)}{chosen}</h5><p class="gr-note">{stands}</p>'
            f"<ol>{''.join(lines)}</ol></div>"
        )
    return f'<div class="gr-scroll"><div class="gr-steps">{"".join(columns)}</div></div>'


def _moved(before: np.ndarray, rank: int) -> str:
    if not len(before):
        return '<b class="gr-up">new</b>'
    up = int(before[0]) - rank
    if not up:
        return ""
    return f'<b class="gr-up">▲{up}</b>' if up > 0 else f'<b class="gr-down">▼{-up}</b>'


def draw_path(titles: Sequence[str], picture: CodePath, item: int) -> str:
    """A branch of the tree: below each code those who go on with it, beside it those who do not."""
    inner = f'<ul><li class="gr-leaf">{escaped(titles[item])}{_sharing(titles, picture, item)}</li></ul>'
    for step in reversed(range(len(picture.tokens))):
        left = picture.left[step]
        stays = picture.left[step + 1] if step + 1 < len(picture.left) else left
        leaving = left[~np.isin(left, stays)]
        count = f"{len(left):,} items" if len(left) > 1 else "1 item"
        note = f" · {escaped(picture.notes[step])}" if picture.notes[step] else ""
        beside = f'<div class="gr-beside">{_names(titles, leaving)}</div>' if len(leaving) else ""
        inner = (
            f'<ul><li><code>{escaped(picture.tokens[step])}</code> <span class="gr-note">{count}{note}</span>'
            f"{beside}{inner}</li></ul>"
        )
    tree = f'<div class="gr-tree"><span class="gr-note">all {len(titles):,} items</span>{inner}</div>'
    return f'<div class="gr-scroll">{tree}</div>'


def _sharing(titles: Sequence[str], picture: CodePath, item: int) -> str:
    others = picture.left[-1][picture.left[-1] != item]
    return f'<div class="gr-beside">with the same codes: {_names(titles, others)}</div>' if len(others) else ""


def _names(titles: Sequence[str], rows: np.ndarray) -> str:
    named = "".join(f"<span>{escaped(titles[row])}</span>" for row in rows[:NEIGHBOURS])
    more = len(rows) - NEIGHBOURS
    return named + (f"<em>and {more:,} more</em>" if more > 0 else "")
