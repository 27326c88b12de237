"""`hf-genrec methods`: what can be trained."""

import typer

EXTRA = None


def command() -> None:
    """List the methods, a line each."""
    from hf_genrec.method import load_method
    from hf_genrec.method import methods as names

    for name in names():
        method = load_method(name)
        typer.echo(f"{name:10s} {method.title}: {method.summary}")
