"""`hf-genrec tune`: a search over settings."""

from typing import Annotated

import typer

from hf_genrec.terminal import quiet

EXTRA = "tune"

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    trials: Annotated[int, typer.Option(help="How many trials there are in the end, earlier ones among them.")],
    space: Annotated[
        list[str],
        typer.Option(
            help="One or more of key=low..high, key=low..high:log, key=a,b,c (values of a list with spaces between), "
            "or YAML files of these."
        ),
    ],
    config: Annotated[
        str | None, typer.Option(help="YAML file, or a shipped name (`hf-genrec configs` lists them).")
    ] = None,
    prune: Annotated[bool, typer.Option(help="End trials early that are worse than most.")] = True,
) -> None:
    """
    Search settings by optuna: a run per trial, compared by NDCG@10 on the validation split. An interrupted search goes
    on.
    """
    from hf_genrec.training.config import check_keys
    from hf_genrec.training.search_space import is_space

    # Words behind the first one of --space.
    spaces = [*space, *(word for word in context.args if is_space(word) and not word.startswith("-"))]
    overrides = [word for word in context.args if word not in spaces]
    check_keys(config, overrides)
    quiet()
    from hf_genrec.trainers.tune import main as program

    program(config, spaces, trials, overrides, prune)
