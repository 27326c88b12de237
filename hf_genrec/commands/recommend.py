"""`hf-genrec recommend`: what comes next, for one history or for all users."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_genrec.terminal import quiet, shown

EXTRA = None


def command(
    run: Annotated[str, typer.Argument(help="Run folder, for instance runs/mine.")],
    user: Annotated[str | None, typer.Option(help="A user of the data; the whole sequence is the history.")] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(
            help="Item ids, oldest first, separated by commas; may be repeated. A value that is an id as a whole is "
            "this one; in a list, an id with a comma stands in double quotes."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of items.")] = 10,
    exclude_seen: Annotated[
        bool | None,
        typer.Option(help="Leave the items of the history out, or not; by default what was better on validation."),
    ] = None,
    unknown: Annotated[
        str,
        typer.Option(
            help="Items of the history that the model does not know: raise refuses them, skip leaves them out."
        ),
    ] = "raise",
    stranger: Annotated[
        bool,
        typer.Option(
            help="Open the folder through the Auto classes in a process that cannot import hf_genrec. This runs the "
            "Python code in the folder: only for one you trust."
        ),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say how the model came to the first item, as far as its method shows it.")
    ] = False,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="All users of the data, as Parquet; finished parts are kept.")
    ] = False,
    histories: Annotated[
        Path | None,
        typer.Option(help="In place of --all-users a Parquet file or folder of histories: user_id and item_ids."),
    ] = None,
    index: Annotated[
        bool, typer.Option("--index", help="Lists of all users by the index that `hf-genrec index` has built.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the Parquet parts; by default recommendations in the run.")
    ] = None,
    part_size: Annotated[int | None, typer.Option(help="Users a part, by default 5000.")] = None,
    engine: Annotated[str | None, typer.Option(help="local, or ray: actors on a Ray cluster.")] = None,
    workers: Annotated[int | None, typer.Option(help="ray: number of actors; by default one per free core.")] = None,
) -> None:
    """The next items for a user of the data or for a history, by title; or for all users, as Parquet."""
    of_batch: dict[str, Any] = {"output": output, "part_size": part_size, "engine": engine, "workers": workers}
    given = {name: value for name, value in of_batch.items() if value is not None}
    if all_users or histories is not None:
        if all_users + (histories is not None) + (user is not None) + bool(history) + stranger + explain > 1:
            raise ValueError(
                "give --all-users, --histories, --user or --history: one of them, and --stranger or --explain for the "
                "last two only"
            )
        from hf_genrec.serving.batch import recommend_users

        quiet()
        line = recommend_users(
            run, k=k, exclude_seen=exclude_seen, unknown=unknown, histories=histories, index=index, **given
        )
        typer.echo(line)
        return
    if index:
        raise ValueError("--index is for --all-users or --histories: one list is made as fast from all items")
    if given:
        option = next(iter(given)).replace("_", "-")
        raise ValueError(f"--{option} is for --all-users or --histories: leave it out, or give one of them")
    from hf_genrec.training.run_folder import RunFolder

    folder = RunFolder(Path(run))
    model_folder = folder.require_model()
    if (user is None) == (not history):
        raise ValueError("give either --user or --history")
    if user is not None:
        from hf_genrec.data.prepared import PreparedData  # needs pyarrow, which the core has not

        prepared = PreparedData.load(folder.data)
        if user not in prepared.user_ids:
            raise ValueError(
                f"user {user!r} is not in {folder.data}, whose users are {', '.join(prepared.user_ids[:3])}, ..."
            )
        items = [prepared.item_ids[row] for row in prepared.sequences[prepared.user_ids.index(user)]]
    else:
        items = None

    quiet()
    from hf_genrec.hub import recommend_as_stranger
    from hf_genrec.method import auto_class, load_method, load_model

    model = load_model(model_folder)
    if items is None:
        items = _history_ids(history or [], model.processor.item_ids)
    items = _known_items(items, model.processor, unknown)
    item_ids, scores = model.recommend(items, k=k, exclude_seen=exclude_seen)
    title = model.processor.title
    newest = ", ".join(shown(title(item_id)) for item_id in items[-3:])
    typer.echo(f"history: {len(items)} items{f', the newest last: {newest}' if newest else ''}")
    if stranger:
        if exclude_seen is not None:
            raise ValueError("--stranger compares plain recommendations: leave --exclude-seen out")
        other_ids, other_scores = recommend_as_stranger(folder.model, items, k)
        if other_ids != item_ids or max(abs(a - b) for a, b in zip(scores, other_scores, strict=True)) > 1e-4:
            raise ValueError(f"{folder.model} recommends other items when it is opened without hf_genrec")
        typer.echo(
            f"opened through {auto_class(folder.model)} in a process that cannot import hf_genrec: the same items and "
            f"scores"
        )
    method = load_method(model.config.model_type)
    kind = method.score_name
    for rank, (item_id, score) in enumerate(zip(item_ids, scores, strict=True), start=1):
        typer.echo(f"{rank:3d}. {shown(title(item_id))}  (item {shown(item_id)}, {kind} {score:.2f})")
    if explain and item_ids:
        from hf_genrec.serving.explanations import as_text, explanations

        processor = model.processor
        titles = [title(item_id) for item_id in processor.item_ids]
        seen_left_out = processor.exclude_seen if exclude_seen is None else exclude_seen
        first = int(processor.rows(item_ids[:1])[0])
        found = explanations(method, model, processor.rows(items), first, seen_left_out)
        for explanation in found:
            typer.echo("\n" + "\n".join(as_text(titles, explanation)))
        if not found:
            typer.echo("Of this method, or without a history, there is nothing to show.")


def _history_ids(values: list[str], known: list[str]) -> list[str]:
    """The item ids of `--history` options, each one an id of the catalogue or a row of CSV."""
    ids: list[str] = []
    for value in values:
        if value in known:
            ids.append(value)
            continue
        for field in re.finditer(r'\s*(?:"((?:[^"]|"")*)"|([^,]*))\s*(?:,|\Z)', value):
            quoted, plain = field.groups()
            if quoted is not None:
                ids.append(quoted.replace('""', '"'))
            elif plain.strip():
                ids.append(plain.strip())
    if not ids and any(value.strip() for value in values):
        raise ValueError(f"--history {shown(','.join(values))}: no item id in it: name items, or leave commas out")
    return ids


def _known_items(items: list[str], processor: Any, unknown: str) -> list[str]:
    """The items of a history that are in the catalogue; what is done with others is what `--unknown` says."""
    if unknown not in ("raise", "skip"):
        raise ValueError(f"--unknown {unknown}: use raise or skip")
    missing = next((place for place, item_id in enumerate(items, start=1) if item_id not in processor), None)
    if missing is not None and unknown == "raise":
        raise ValueError(
            f"Item {items[missing - 1]!r} in the history is not in the catalogue (position {missing}, from 1): correct "
            f"it, or leave such items out by --unknown skip"
        )
    return [processor.item_ids[row] for row in processor.rows(items, unknown)]
