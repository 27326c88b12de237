"""The `hf-genrec` command. Each subcommand imports what it needs and calls one program of `trainers/`.

torch, transformers and what needs them take seconds to import: what can be refused without them is refused before.
"""

import inspect
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hf_genrec.terminal import bars_for_people, quiet, shown


class Terminated(SystemExit):
    """SIGTERM, to a command that does not answer it in a way of its own: what it holds open is put away."""


class Commands(TyperGroup):
    """Ctrl-C ends every command alike, whatever version of typer there is."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise SystemExit(128 + signal.SIGINT) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Options are written --with-dashes, keys of a configuration --with_underscores: either is taken for the other.
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
)

# Their options are the keys of the argument classes, which take seconds to import: `--help` is passed on, too.
PASS_ON: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}
ConfigOption = Annotated[
    str | None, typer.Option(help="YAML file, or a shipped name (`hf-genrec configs` lists them).")
]
RunArgument = Annotated[str, typer.Argument(help="Run folder, for instance runs/mine.")]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("hf_genrec"))
        raise typer.Exit


# What several processes do together; any other command would be done by each of them, into the same files.
TOGETHER = ("train", "grpo", "tokenize")


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Generative recommenders: from an interaction log to semantic IDs, a trained model and recommended titles."""
    from hf_genrec.training.processes import require_one_process

    if context.invoked_subcommand not in TOGETHER:
        require_one_process(f"hf-genrec {context.invoked_subcommand}")


def main() -> None:
    """Run the command; an error the user can mend is one line. Ctrl-C ends it with 130, SIGTERM with 143."""
    bars_for_people()
    try:
        with _ended_by_sigterm():
            app()
    except Terminated:
        typer.echo("terminated", err=True)
        raise
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        line = shown(" ".join(str(error).splitlines()))
        if isinstance(error, ModuleNotFoundError) and "pip install" not in line:
            line += ": `hf-genrec doctor` says what is missing for which command, and the line that installs it"
        typer.secho(f"error: {line}", fg=typer.colors.RED, err=True)
        raise SystemExit(2) from None


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    def end(number: int, frame: Any) -> None:
        raise Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    typer.echo(f"Every key may stand in the YAML, or here as an option, with underscores or dashes.\n\n{options}")
    raise typer.Exit


@app.command(**PASS_ON)
def prepare(context: typer.Context, config: ConfigOption = None) -> None:
    """Interaction log and item text -> sequences and splits. `prepare --help` lists the keys."""
    configuration = _configuration("prepare", config, context)
    from hf_genrec.trainers.prepare_data import main as program

    program(configuration)


@app.command(**PASS_ON)
def teachers(context: typer.Context, config: ConfigOption = None) -> None:
    """Train the runs that a configuration learns from, as its key `teachers` says; before `tokenize` and `train`."""
    configuration = _configuration("teachers", config, context)
    from hf_genrec.trainers.train_teachers import main as program

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
    run: Annotated[str, typer.Argument(help="Run folder; with --data also a saved model or a repository on the Hub.")],
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    exclude_seen: Annotated[
        bool | None,
        typer.Option(help="Leave the items of the history out of the lists, or not; by default what recommend does."),
    ] = None,
    num_beams: Annotated[int | None, typer.Option(help="Beams; by default twice the length of the lists.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Evaluate on the prepared data of this run, folder or data set on the Hub instead."),
    ] = None,
    output: Annotated[str | None, typer.Option(help="With --data: JSON file for all figures.")] = None,
    revision: Annotated[
        str | None, typer.Option(help="With --data: branch or commit of the model's repository.")
    ] = None,
    max_users: Annotated[
        int | None, typer.Option(help="Evaluate a random sample of so many users, the same for every model.", min=1)
    ] = None,
) -> None:
    """Recall, NDCG, MRR, diversity, bias and speed of the model, beside most popular and item-kNN."""
    from hf_genrec.training.run_folder import RunFolder

    if data is not None:
        quiet()
        from hf_genrec.trainers.evaluate_model import main as elsewhere

        elsewhere(run, data, split, exclude_seen, num_beams, output, revision, max_users)
        return
    for name, value in (("--output", output), ("--revision", revision)):
        if value is not None:
            raise ValueError(f"{name} needs --data: a run is evaluated on its own data, into its results/")
    RunFolder(Path(run)).require_model()
    quiet()
    from hf_genrec.trainers.evaluate_run import main as program

    program(run, split, exclude_seen, num_beams, max_users)


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
