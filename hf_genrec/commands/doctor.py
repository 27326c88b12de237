"""`hf-genrec doctor`: what is installed, what it runs on, and what is missing for which command."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version

import typer

DISTRIBUTION = "hf_genrec"

# The extra that a command needs beside the core; None: the core is enough. Commands in files of their own say it
# there, as `EXTRA`; an option that needs more than its command has a line of its own.
EXTRA = None
EXTRAS: dict[str, str | None] = {
    "prepare": "train",
    "teachers": "train",
    "tokenize": "train",
    "train": "train",
    "evaluate": "train",
    "recommend --user": "data",
    "sweep": "train",
    "grpo": "rl",
}


def command(context: typer.Context) -> None:
    """Versions, devices, and what is missing for which command, with the line that installs it."""
    for name, value in [("python", platform.python_version()), *_versions(), *_devices()]:
        typer.echo(f"{name:14s} {value}")
    typer.echo("")
    try:
        extras = metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except PackageNotFoundError:
        typer.echo(
            f"{DISTRIBUTION} is imported from {sys.path[0] or '.'} and not installed: pip install {DISTRIBUTION}"
        )
        return
    assert context.parent is not None
    commands: Mapping = context.parent.command.commands  # type: ignore[attr-defined]  # a group's
    rows = extras_of(commands)
    for name, extra in rows.items():
        typer.echo(f"{name:18s} {_state(extra)}")
    typer.echo("\nfurther extras")
    for extra in extras:
        if extra not in rows.values():
            typer.echo(f"{extra:18s} {_state(extra)}")


def extras_of(commands: Mapping) -> dict[str, str | None]:
    """Each command's extra, and that of options which need more; a command that says nothing may need everything."""
    found: dict[str, str | None] = {}
    for name, entry in commands.items():
        found[name] = getattr(sys.modules[entry.callback.__module__], "EXTRA", EXTRAS.get(name, "all"))
        found |= {row: extra for row, extra in EXTRAS.items() if row.startswith(f"{name} ")}
    return found


def unmet(name: str, extra: str = "") -> Iterator[str]:
    """
    The requirements of an installed distribution, with one of its extras, that are missing or of another version than
    it allows; of requirements with extras these extras' requirements, too.
    """
    from packaging.requirements import Requirement

    for line in requires(name) or []:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": extra}):
            continue
        if needed.marker is None and extra and name == DISTRIBUTION:
            continue  # the core's, which have a line of their own
        try:
            installed = version(needed.name)
        except PackageNotFoundError:
            yield f"{needed.name}{needed.specifier}"
            continue
        if not needed.specifier.contains(installed, prereleases=True):
            yield f"{needed.name}{needed.specifier} (there is {installed})"
        for further in sorted(needed.extras):
            yield from unmet(needed.name, further)


def _state(extra: str | None) -> str:
    missing = ", ".join(dict.fromkeys(unmet(DISTRIBUTION, extra or "")))
    if not missing:
        return "ready"
    whole = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
    return f'missing {missing}: pip install "{whole}"'


def _versions() -> Iterator[tuple[str, str]]:
    """The library and what its core requires."""
    from packaging.requirements import Requirement

    from hf_genrec import __version__

    yield DISTRIBUTION, __version__
    try:
        lines = [Requirement(line) for line in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:
        return
    for needed in lines:
        if needed.marker is None:
            try:
                yield needed.name, version(needed.name)
            except PackageNotFoundError:
                yield needed.name, "missing"


def _devices() -> Iterator[tuple[str, str]]:
    try:
        import torch
    except (ImportError, OSError) as error:  # not there, or its libraries do not load
        yield "devices", f"torch does not import: {' '.join(str(error).split())}"
        return
    yield "CPU", f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    if torch.cuda.is_available():
        for place in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(place)
            yield f"CUDA {place}", f"{device.name}, {device.total_memory / 2**30:.1f} GiB"
    else:
        yield "CUDA", "none"
    yield "MPS", "yes" if torch.backends.mps.is_available() else "none"
