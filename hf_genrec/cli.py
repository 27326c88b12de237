"""The `hf-genrec` command. Each subcommand imports what it needs and calls one program of `trainers/`.

torch, transformers and what needs them take seconds to import: what can be refused without them is refused before.
"""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_genrec.terminal import quiet, shown

HELP = "Generative recommenders: from an interaction log to semantic IDs, a trained model and recommended titles."
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=HELP)

# Their options are the keys of the argument classes, which take seconds to import: `--help` is passed on, too.
PASS_ON: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}
ConfigOption = Annotated[
    str | None, typer.Option(help="YAML file, or a shipped name (`hf-genrec configs` lists them).")
]
RunArgument = Annotated[str, typer.Argument(help="Run folder, for instance runs/mine.")]


def main() -> None:
    """Run the command; an error the user can mend is one line."""
    try:
        app()
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        line = shown(" ".join(str(error).splitlines()))
        typer.secho(f"error: {line}", fg=typer.colors.RED, err=True)
        raise SystemExit(2) from None


def _configuration(command: str, config: str | None, context: typer.Context):
    from hf_genrec.training.config import check_keys, parse_config, run_options

    if "--help" in context.args:
        quiet()
        _print_options(command, context, run_options(command, config, context.args))
    _require_inputs(command, check_keys(config, context.args))
    quiet()
    return parse_config(config, context.args)


def _require_inputs(command: str, settings: dict[str, Any]) -> None:
    """The files that `prepare`, `tokenize` and `train` begin with; of values that cannot be used others will tell."""
    from hf_genrec.data.prepared import require_files
    from hf_genrec.dataset_scripts.places import require_source
    from hf_genrec.method import load_method
    from hf_genrec.training.run_folder import RunFolder

    if command == "prepare":
        paths = (settings.get(name) for name in ("source_path", "item_path"))
        require_source(settings.get("source", "movielens"), *(None if path is None else str(path) for path in paths))
    elif isinstance(settings.get("output_dir"), str) and (command == "train" or load_method(settings["method"]).codes):
        require_files(RunFolder(Path(settings["output_dir"])).data)


def _print_options(command: str, context: typer.Context, options: str) -> None:
    about = inspect.cleandoc(str(context.command.help))
    typer.echo(f"Usage: hf-genrec {command} [--config NAME_OR_PATH] [--key value ...]\n\n{about}\n")
    typer.echo(f"Every key may stand in the YAML, or here as an option.\n\n{options}")
    raise typer.Exit


@app.command(**PASS_ON)
def prepare(context: typer.Context, config: ConfigOption = None) -> None:
    """Interaction log and item text -> sequences and splits. `prepare --help` lists the keys."""
    configuration = _configuration("prepare", config, context)
    from hf_genrec.trainers.prepare_data import main as program

    program(configuration)


@app.command(**PASS_ON)
def tokenize(context: typer.Context, config: ConfigOption = None) -> None:
    """Item text -> embeddings -> semantic IDs with a health report, for methods whose items have codes."""
    configuration = _configuration("tokenize", config, context)
    from hf_genrec.trainers.tokenize_items import main as program

    program(configuration)


@app.command(**PASS_ON)
def train(context: typer.Context, config: ConfigOption = None) -> None:
    """
    Train on the prepared, tokenized data; `train --help` lists the keys. --resume_from_checkpoint last goes on after an
    interruption.
    """
    configuration = _configuration("train", config, context)
    from hf_genrec.trainers.train import main as program

    program(configuration)


@app.command(**PASS_ON)
def grpo(context: typer.Context, config: ConfigOption = None) -> None:
    """Post-train a run's model by reinforcement learning, into a run folder of its own."""
    from hf_genrec.post_training.grpo_keys import GRPO_KINDS
    from hf_genrec.training.config import check_keys
    from hf_genrec.training.run_folder import RunFolder

    if "--help" not in context.args:
        settings = check_keys(config, context.args, GRPO_KINDS, "grpo")
        if isinstance(settings.get("pretrained"), str):
            RunFolder(Path(settings["pretrained"])).require_model()
    quiet()
    from hf_genrec.post_training.grpo_arguments import grpo_options, parse_grpo_config

    if "--help" in context.args:
        _print_options("grpo", context, grpo_options())
    from hf_genrec.trainers.train_grpo import main as program

    program(parse_grpo_config(config, context.args))


@app.command()
def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    exclude_seen: Annotated[bool, typer.Option(help="Leave the items of the history out of the lists.")] = False,
    num_beams: Annotated[int | None, typer.Option(help="Beams; by default twice the length of the lists.")] = None,
) -> None:
    """Recall, NDCG, MRR, diversity, bias and speed of the model, beside most popular and item-kNN."""
    from hf_genrec.training.run_folder import RunFolder

    RunFolder(Path(run)).require_model()
    quiet()
    from hf_genrec.trainers.evaluate_run import main as program

    program(run, split, exclude_seen, num_beams)


@app.command(context_settings=PASS_ON["context_settings"])
def sweep(
    context: typer.Context,
    key: Annotated[str, typer.Option(help="Setting to vary, for instance learning_rate.")],
    values: Annotated[str, typer.Option(help="Its values, separated by commas.")],
    config: ConfigOption = None,
) -> None:
    """Train a run per value of one setting and compare them on the validation split; finished ones are kept."""
    from hf_genrec.training.config import check_keys

    check_keys(config, context.args)
    quiet()
    from hf_genrec.trainers.sweep import main as program

    program(config, key, [value.strip() for value in values.split(",")], context.args)


@app.command()
def recommend(
    run: RunArgument,
    user: Annotated[str | None, typer.Option(help="A user of the data; the whole sequence is the history.")] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(
            help="Item ids, oldest first, separated by commas; may be repeated. A value that is an id as a whole is "
            "this one; in a list, an id with a comma stands in double quotes."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of items.")] = 10,
    exclude_seen: Annotated[bool, typer.Option(help="Leave the items of the history out.")] = False,
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
) -> None:
    """The next items for a user of the data or for a history, by title."""
    from hf_genrec.data.prepared import PreparedData
    from hf_genrec.training.run_folder import RunFolder

    folder = RunFolder(Path(run))
    model_folder = folder.require_model()
    if (user is None) == (not history):
        raise ValueError("give either --user or --history")
    if user is not None:
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
    newest = ", ".join(shown(title(item_id)) for item_id in items[-3:]) or "none"
    typer.echo(f"history: {len(items)} items, the newest: {newest}")
    if stranger:
        if exclude_seen:
            raise ValueError("--stranger compares plain recommendations: leave --exclude-seen out")
        other_ids, other_scores = recommend_as_stranger(folder.model, items, k)
        if other_ids != item_ids or max(abs(a - b) for a, b in zip(scores, other_scores, strict=True)) > 1e-4:
            raise ValueError(f"{folder.model} recommends other items when it is opened without hf_genrec")
        typer.echo(
            f"opened through {auto_class(folder.model)} in a process that cannot import hf_genrec: the same items and "
            f"scores"
        )
    kind = load_method(model.config.model_type).score_name
    for rank, (item_id, score) in enumerate(zip(item_ids, scores, strict=True), start=1):
        typer.echo(f"{rank:3d}. {shown(title(item_id))}  (item {shown(item_id)}, {kind} {score:.2f})")


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
    return ids


def _known_items(items: list[str], processor: Any, unknown: str) -> list[str]:
    """The items of a history that are in the catalogue; what is done with others is what `--unknown` says."""
    if unknown not in ("raise", "skip"):
        raise ValueError(f"--unknown {unknown}: use raise or skip")
    known = set(processor.item_ids)
    missing = next((place for place, item_id in enumerate(items, start=1) if item_id not in known), None)
    if missing is not None and unknown == "raise":
        raise ValueError(
            f"Item {items[missing - 1]!r} in the history is not in the catalogue (place {missing}, from 1): correct "
            f"it, or leave such items out by --unknown skip"
        )
    return [processor.item_ids[row] for row in processor.rows(items, unknown)]


@app.command()
def push(
    run: RunArgument,
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, for instance my-org/my-model.")],
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
) -> None:
    """Upload the run's model with its code, processor and card; refuses what no export writes, and links."""
    from hf_genrec.training.run_folder import RunFolder

    folder = RunFolder(Path(run)).require_model()
    quiet()
    from hf_genrec.hub import push as upload

    typer.echo(upload(folder, repo_id, private))


def _add_commands() -> None:
    """A file `commands/<command>.py`, here or in the folder of a method, holds a command: its function `command`.

    `CONTEXT_SETTINGS` beside it are click's, of a command that takes the keys of configurations as options.
    """
    from hf_genrec.method import FOLDER

    shared = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for path in sorted((FOLDER.parent / "commands").glob("[a-z]*.py")) + sorted(FOLDER.glob("*/commands/[a-z]*.py")):
        if path.stem in shared:
            raise SystemExit(f"error: {path} would replace the command {path.stem}: rename it")
        shared.add(path.stem)
        module = import_module(".".join(("hf_genrec", *path.relative_to(FOLDER.parent).with_suffix("").parts)))
        settings = getattr(module, "CONTEXT_SETTINGS", None)
        app.command(name=path.stem.replace("_", "-"), context_settings=settings)(module.command)


_add_commands()

if __name__ == "__main__":
    main()
