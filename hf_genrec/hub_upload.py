"""One commit on the Hub: to a new or an old repository, a branch, or a pull request; or what would be in it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_genrec.terminal import shown


@dataclass
class Destination:
    """
    Where a commit goes.

    Attributes:
        repo_id: `owner/name`; the repository is made where there is none.
        private: whether it must be a private one.
        revision: a branch, made from the main one where there is none; by default the main one.
        create_pr: open a pull request instead of changing the repository.
        repo_type: `"model"` or `"dataset"`.
        token: by default the one of `hf auth login`.

    Raises:
        ValueError: for a name that no repository has, or a branch and a pull request at once.
    """

    repo_id: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    repo_type: str = "model"
    token: str | None = None

    def __post_init__(self) -> None:
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(self.repo_id)
        if self.revision is not None and not self.revision.strip():
            raise ValueError("--revision is empty: name a branch, or leave it out")
        if self.revision is not None and self.create_pr:
            raise ValueError(
                "--create-pr asks the main branch to change, and --revision names another: give one of them"
            )


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a folder by their paths in it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def listing(files: Mapping[str, Path], to: Destination) -> str:
    """What [`upload`] would upload, a line each: size in bytes and path."""
    sizes = {name: path.stat().st_size for name, path in files.items()}
    width = max(len(f"{size:,}") for size in sizes.values())
    lines = [f"{size:{width},}  {shown(name)}" for name, size in sizes.items()]
    kind = f"{'private ' if to.private else ''}{to.repo_type} repository {to.repo_id}"
    place = "as a pull request" if to.create_pr else f"on branch {shown(to.revision or 'main')}"
    return "\n".join(
        [*lines, f"{len(sizes)} files, {sum(sizes.values()):,} bytes, for the {kind}, {place}; nothing was uploaded"]
    )


def upload(files: Mapping[str, Path], to: Destination, message: str) -> str:
    """
    Upload files in one commit: whoever interrupts it before its end leaves the branch as it was.

    Args:
        files: by their paths in the repository.

    Returns:
        the address of the commit, or of the pull request.

    Raises:
        ValueError: for a private repository that is public, or a pull request to one that does not exist.
        OSError: if the Hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=to.token)
    place: dict[str, Any] = {"repo_id": to.repo_id, "repo_type": to.repo_type}
    with _naming_the_hub(api.endpoint):
        exists = (to.private or to.create_pr) and api.repo_exists(**place)
        if to.create_pr and not exists:
            raise ValueError(f"{to.repo_id} does not exist, so nobody can merge a pull request: leave --create-pr out")
        if to.private and exists and not api.repo_info(**place).private:
            raise ValueError(
                f"{to.repo_id} exists already and is public: make it private first, or leave --private out"
            )
        if not exists:
            api.create_repo(**place, private=to.private or None, exist_ok=True)
        if to.revision is not None:
            api.create_branch(**place, branch=to.revision, exist_ok=True)
        # Not `upload_folder`, which may cut a folder into several commits.
        commit = api.create_commit(
            **place,
            operations=[CommitOperationAdd(name, path) for name, path in files.items()],
            commit_message=message,
            revision=to.revision,
            create_pr=to.create_pr,
        )
    return commit.pr_url or commit.commit_url


@contextmanager
def _naming_the_hub(endpoint: str) -> Iterator[None]:
    """A Hub that cannot be reached in a line, as any other error of its client."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its base class is the HTTP library's, which differs between versions of the client.
    of_library: Any = HfHubHTTPError.__bases__[0]
    try:
        yield
    except of_library as error:
        if isinstance(error, OSError):
            raise
        raise OSError(f"{endpoint} cannot be reached ({error}): check your connection, and HF_ENDPOINT") from error
