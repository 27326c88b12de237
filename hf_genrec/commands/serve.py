"""`hf-genrec serve`: a trained model behind a port."""

import os
from pathlib import Path
from typing import Annotated

import typer

from hf_genrec.serving.settings import ServerSettings
from hf_genrec.terminal import quiet

EXTRA = "serve"

USUAL = ServerSettings()
TOKEN = "HF_GENREC_TOKEN"


def command(
    runs: Annotated[
        list[str], typer.Argument(help="Run folder, saved model or repository; several side by side, as NAME=RUN.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of the machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    max_batch: Annotated[
        int, typer.Option(help="Histories the model is asked about at a time.", min=1)
    ] = USUAL.max_batch,
    max_wait_ms: Annotated[
        float, typer.Option(help="Milliseconds a batch waits for as many requests as the last one had.", min=0)
    ] = USUAL.max_wait_ms,
    max_queue: Annotated[int, typer.Option(help="Histories that may wait; beyond, 429.", min=1)] = USUAL.max_queue,
    max_k: Annotated[int, typer.Option(help="Items a history may ask for.", min=1)] = USUAL.max_k,
    max_body_bytes: Annotated[int, typer.Option(help="Bytes of a request; beyond, 413.", min=1)] = USUAL.max_body_bytes,
    timeout_seconds: Annotated[
        float, typer.Option(help="Seconds until a request is answered 504.", min=0.001)
    ] = USUAL.timeout_seconds,
    drain_seconds: Annotated[
        float, typer.Option(help="Seconds a stopping server still reads from the connections it has.", min=0)
    ] = USUAL.drain_seconds,
    cache_bytes: Annotated[
        int, typer.Option(help="Bytes of encoded histories kept for users that requests name.", min=0)
    ] = USUAL.cache_bytes,
    index: Annotated[
        bool, typer.Option("--index", help="Lists by the index that `hf-genrec index` has built of the run's items.")
    ] = False,
    token: Annotated[
        str | None, typer.Option(help="What clients must send as a bearer token.", envvar=TOKEN, show_envvar=True)
    ] = None,
    engine: Annotated[
        str, typer.Option(help="uvicorn: this process. ray: replicas on a Ray Serve cluster.")
    ] = "uvicorn",
    replicas: Annotated[int, typer.Option(help="With --engine ray: processes that answer.", min=1)] = 2,
) -> None:
    """Answer requests for recommendations: POST /recommend, POST /items, and the documentation at /docs."""
    if engine not in ("uvicorn", "ray"):
        raise ValueError(f"--engine {engine}: use uvicorn or ray")
    if index and engine == "ray":
        raise ValueError("--index is for --engine uvicorn: leave one of them out")
    if token == "":
        raise ValueError(f"the token is empty: give --token or {TOKEN} some characters, or leave it out")
    settings = ServerSettings(
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        max_k=max_k,
        max_body_bytes=max_body_bytes,
        timeout_seconds=timeout_seconds,
        drain_seconds=drain_seconds,
        cache_bytes=cache_bytes,
        token=token,
    )
    named = [named_run(run) for run in runs]
    quiet()
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{error.name} is not installed: pip install "hf_genrec[serve]"') from None
    if engine == "ray":
        from hf_genrec.serving.ray_server import serve as serve_on_ray

        serve_on_ray(named, settings, host, port, replicas)
        return
    from hf_genrec.serving.application import build_application
    from hf_genrec.serving.served_model import ServedModel
    from hf_genrec.serving.server import bound_port, serve

    listening = bound_port(host, port)
    models = [ServedModel(run, name, cache_bytes, index) for name, run in named]
    application = build_application(models, settings)
    place = f"http://{host}:{listening.getsockname()[1]}"
    typer.echo(f"{', '.join(model.name for model in models)} at {place}, documentation at {place}/docs", err=True)
    serve(application, settings, listening)


def named_run(value: str) -> tuple[str | None, str]:
    """NAME=RUN, or a run alone. A folder whose own name has an = is the folder."""
    name, separator, run = value.partition("=")
    if not separator or Path(value).exists():
        return None, value
    if not name or not run or os.sep in name:
        raise ValueError(f"{value!r}: give a run, or NAME=RUN")
    return name, run
