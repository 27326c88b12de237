"""The Ray cluster that a command works on: the one there is, or one of its own."""

import os
from typing import Any


def load_ray(wanted_by: str) -> Any:
    """
    Ray, which is told to report nothing of its use.

    Raises:
        ImportError: where it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError(f'{wanted_by} needs Ray: pip install "hf_genrec[ray]"') from error
    return ray


def has_cluster() -> bool:
    """Whether there is a cluster to join, the one that RAY_ADDRESS names."""
    return bool(os.environ.get("RAY_ADDRESS"))


def connect(ray: Any, own: dict[str, Any], **settings: Any) -> None:
    """
    Join the cluster there is, or begin one of this machine alone.

    Args:
        own: settings of the latter.
        settings: of both.
    """
    ray.init(**settings, **({} if has_cluster() else {"include_dashboard": False, **own}))
