"""The demo's page in Gradio, and its server."""

import html
from typing import Any

import gradio as gr

from hf_genrec.serving.demo.desk import MOST, USUAL, Desk
from hf_genrec.serving.demo.drawing import escaped, plain
from hf_genrec.serving.demo.style import CLICKS, CSS, FONT, MONO

MAX_WAITING = 64  # requests that wait; whoever comes then is told that the page is busy
SESSION_SECONDS = 3600  # a history is forgotten after


def _pane(text: str = "", **options: Any) -> gr.HTML:
    return gr.HTML(text, elem_classes="gr-pane", apply_default_css=False, js_on_load=CLICKS, **options)


def build_page(desk: Desk) -> gr.Blocks:
    """The page; [`serve_page`] starts it."""

    def add(history: list[str], event: gr.EventData):
        history = desk.add(history, event._data)
        return history, desk.show_history(history), ""

    def take_out(history: list[str], event: gr.EventData):
        history = desk.take_out(history, event._data)
        return history, desk.show_history(history)

    def take_user(event: gr.EventData):
        taken = desk.take_user(event._data)
        return (gr.skip(),) * 3 if taken is None else show_user(*taken)

    def name_user(query: Any):
        named = desk.name_user(query)
        return (gr.skip(),) * 3 if named is None else show_user(*named)

    def show_user(user: str, history: list[str]):
        return history, desk.show_history(history), gr.Textbox("", placeholder=f"taken: {plain(user)}")

    def recommend(history: list[str], k: Any, exclude_seen: Any):
        answers, drawn = desk.recommend(history, k, exclude_seen)
        return [answers, *drawn]

    def explain(answers: list, event: gr.EventData):
        return desk.explain(answers, event._data) or [gr.skip()] * (len(desk.runs) + 1)

    size = f"{len(desk.runs[0].item_ids):,} items" + (f", {len(desk.users):,} users" if desk.users else "")
    with gr.Blocks(title=plain(f"hf_genrec: {desk.name}"), analytics_enabled=False) as page:
        history = gr.State([], time_to_live=SESSION_SECONDS)
        answers = gr.State([], time_to_live=SESSION_SECONDS)
        _pane(f"<h1>What comes next?</h1><p>{escaped(desk.name)} · {html.escape(size)}</p>", elem_id="gr-top")
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                _pane("<h2>A history</h2>")
                query = gr.Textbox(label="Search titles", placeholder="some words of a title", elem_id="gr-query")
                matches = _pane(desk.find_titles(""), elem_id="gr-matches")
                if desk.users:
                    user = gr.Textbox(
                        label="Or take a user of the data",
                        placeholder=f"such as {plain(desk.user_ids[0])}, then Enter",
                        elem_id="gr-user",
                    )
                    users = _pane(elem_id="gr-users")
                shown_history = _pane(desk.show_history([]), elem_id="gr-history")
                with gr.Row(elem_id="gr-buttons"):
                    if desk.users:
                        any_user = gr.Button("Any user", size="sm", elem_id="gr-any-user", min_width=120)
                    clear = gr.Button("Empty the history", size="sm", elem_id="gr-clear", min_width=120)
            with gr.Column(scale=7, min_width=300):
                _pane("<h2>Recommendations</h2>")
                k = gr.Slider(1, MOST, USUAL, step=1, label="Items", elem_id="gr-k")
                exclude_seen = gr.Checkbox(desk.exclude_seen, label="Leave the history's items out", elem_id="gr-seen")
                with gr.Row():
                    lists = []
                    for place in range(len(desk.runs)):
                        with gr.Column(min_width=280):
                            lists.append(_pane(elem_id=f"gr-list-{place}"))
        why = _pane(elem_id="gr-why")

        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 4}
        slow: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private", "concurrency_id": "models"}
        asked: dict[str, Any] = {"inputs": [history, k, exclude_seen], "outputs": [answers, *lists, why], **slow}
        query.change(desk.find_titles, query, matches, trigger_mode="always_last", **quick)
        changes = [
            matches.click(add, history, [history, shown_history, query], **quick),
            shown_history.click(take_out, history, [history, shown_history], **quick),
            clear.click(lambda: ([], desk.show_history([])), None, [history, shown_history], **quick),
        ]
        if desk.users:
            user.change(desk.find_users, user, users, trigger_mode="always_last", **quick)
            taken = [history, shown_history, user]
            changes.append(users.click(take_user, None, taken, **quick))
            changes.append(user.submit(name_user, user, taken, **quick))
            changes.append(any_user.click(lambda: show_user(*desk.any_user()), None, taken, **quick))
        for change in changes:
            change.then(recommend, **asked)
        gr.on([k.release, exclude_seen.change, page.load], recommend, trigger_mode="always_last", **asked)
        for one in lists:
            one.click(explain, answers, [*lists, why], **slow)
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    return page


def serve_page(page: gr.Blocks, host: str | None, port: int | None) -> str:
    """
    Serve the page in the background, to whoever asks this machine and nobody else's.

    Returns:
        its address.

    Raises:
        OSError: for a port that is taken.
    """
    theme = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=FONT, font_mono=MONO).set(
        checkbox_border_color="*neutral_400", input_border_width="1px", input_border_color="*neutral_300"
    )
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            theme=theme,
            css=CSS,
            quiet=True,
            share=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            inbrowser=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=1,  # nothing is to be uploaded
            state_session_capacity=1000,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise OSError(f"nothing can listen at port {port} of {host}: name another --port or --host") from error
    return address
