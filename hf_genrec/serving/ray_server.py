"""The same application on a Ray Serve cluster: several processes that answer, replaced one after the other."""

import signal
import threading
from collections.abc import Sequence
from typing import Any

from hf_genrec.serving.ray_cluster import connect, has_cluster, load_ray
from hf_genrec.serving.settings import ServerSettings

NAME = "hf_genrec"


def deployment(runs: Sequence[tuple[str | None, str]], settings: ServerSettings, replicas: int = 2) -> Any:
    """
    A Ray Serve application of `replicas` processes, each with the models, its own batches and its own user cache.

    Args:
        runs: names (or `None`) and run folders or repositories, to be found from every machine of the cluster.

    Raises:
        ImportError: where Ray is not installed.
    """
    load_ray("--engine ray")
    from ray import serve

    def application() -> Any:
        from hf_genrec.serving.application import build_application
        from hf_genrec.serving.served_model import ServedModel

        return build_application([ServedModel(run, name, settings.cache_bytes) for name, run in runs], settings)

    class Replica:
        """A process that answers."""

    answering = serve.ingress(application)(Replica)
    options: dict[str, Any] = {"num_replicas": replicas, "max_ongoing_requests": settings.max_queue}
    return serve.deployment(**options)(answering).bind()


def deploy(
    runs: Sequence[tuple[str | None, str]], settings: ServerSettings, host: str, port: int, replicas: int
) -> bool:
    """
    Deploy on the cluster that `RAY_ADDRESS` names, or on one of this machine alone. Where the application runs already,
    its replicas are replaced one after the other, and requests go on to be answered.

    Returns:
        whether the cluster is this process's own, and ends with it.
    """
    application = deployment(runs, settings, replicas)
    ray = load_ray("--engine ray")
    from ray import serve

    if not ray.is_initialized():
        connect(ray, {})
    serve.start(http_options={"host": host, "port": port})
    serve.run(application, name=NAME, route_prefix="/")
    return not has_cluster()


def serve(
    runs: Sequence[tuple[str | None, str]], settings: ServerSettings, host: str, port: int, replicas: int
) -> None:
    """Deploy; on a cluster of this process's own, answer until SIGTERM or Ctrl-C."""
    if not deploy(runs, settings, host, port, replicas):
        return
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    from ray import serve as ray_serve

    ray_serve.shutdown()
