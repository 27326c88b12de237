"""Items' pictures -> vectors, with the cache of texts' vectors."""

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_genrec.cells import shown
from hf_genrec.pictures import IMAGE, Pictures
from hf_genrec.terminal import shows_bars

from .embedding import DEFAULT_CACHE, VectorCache, load_encoder, model_identity, resolve_model
from .shares import is_first, of_all, own_share

logger = logging.getLogger(__name__)

CHUNK = 256  # pictures that are held at a time


def embed_images(
    items: pa.Table,
    model: str,
    cache_folder: str | Path | None = None,
    pictures: Pictures | None = None,
    batch_size: int = 32,
    shared: bool = False,
) -> np.ndarray:
    """Embeddings of the items' pictures. Each is encoded once per model and then read from the cache, by its content.

    Args:
        items: columns item_id and image, the pictures' names; an item may have none.
        model: a sentence-transformers name or folder of a model that reads pictures.
        cache_folder: where the cache lies; None for ~/.cache/hf_genrec/embeddings.
        pictures: what finds pictures by their names; None for paths from the working directory on.
        shared: whether all processes of a group ask for the same pictures: each reads and encodes its share, the first
            one writes the cache.

    Returns:
        (N, D) float32; zero for an item without a picture, see `ItemTokenizer.join`.

    Raises:
        ValueError: no item has a picture, one is missing or damaged, or the model cannot be loaded or reads none. A
            picture's error names the item.
    """
    names = items.column(IMAGE).to_pylist() if IMAGE in items.column_names else []
    rows = [row for row, name in enumerate(names) if name]
    if not rows:
        raise ValueError(
            "image_model: no item has a picture: name their column by image_column in `prepare`, or leave it out"
        )
    item_ids = [str(item_id) for item_id in items.column("item_id").to_pylist()]
    if len(rows) < len(names):
        first = next(row for row, name in enumerate(names) if not name)
        logger.warning(
            "%d of %d items have no picture, for instance %s: the mean stands in",
            len(names) - len(rows), len(names), shown(item_ids[first]),
        )  # fmt: skip
    source = resolve_model(model, "image_model")
    cache = VectorCache(
        Path(cache_folder or DEFAULT_CACHE).expanduser() / f"{model_identity(source)}-images.safetensors"
    )
    finder, encoder = pictures or Pictures(), None
    keys: list[bytes] = []
    added: list[bytes] = []
    try:
        for chunk in _chunks(rows[own_share(len(rows))] if shared else rows):
            contents = {row: _read(finder, names[row], item_ids[row]) for row in chunk}
            digests = {row: hashlib.sha256(content).digest() for row, content in contents.items()}
            keys += digests.values()
            new = {digests[row]: row for row in chunk if digests[row] not in cache}
            if new:
                encoder = encoder or _load_encoder(source)
                decoded = [_decode(contents[row], names[row], item_ids[row]) for row in new.values()]
                cache.add(list(new), _encode(encoder, decoded, source, batch_size))
                added += new
    finally:  # a long embedding that is interrupted goes on from here
        if added and (is_first() or not shared):
            cache.save()
    if shared:
        keys = [key for share in of_all(keys) for key in share]
        if cache.exchange(added) and is_first():
            cache.save()
    logger.info("%d pictures, %d of them encoded here now, the others read from %s", len(rows), len(added), cache.path)
    found = cache.rows(keys)
    vectors = np.zeros((len(names), found.shape[1]), dtype=np.float32)
    vectors[rows] = found
    return vectors


def _chunks(rows: list[int]) -> Iterator[list[int]]:
    from tqdm import tqdm

    with tqdm(total=len(rows), desc="pictures", unit=" pictures", disable=not shows_bars()) as bar:
        for start in range(0, len(rows), CHUNK):
            yield rows[start : start + CHUNK]
            bar.update(len(rows[start : start + CHUNK]))


def _read(pictures: Pictures, name: str, item_id: str) -> bytes:
    try:
        return pictures.read(name)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(f"item {shown(item_id)}: {reason}: correct its picture {shown(name)}") from None


def _decode(content: bytes, name: str, item_id: str) -> Any:
    """The picture in colours, upright, its first frame."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as picture:
                return ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:  # of many kinds, by what is damaged
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"item {shown(item_id)}: its picture {shown(name)} cannot be read ({reason}): correct or remove it"
        ) from None


def _load_encoder(source: str) -> Any:
    encoder = load_encoder(source, "image_model")
    known = getattr(encoder, "modalities", None)  # which earlier versions of sentence-transformers do not say
    if known is not None and "image" not in known:
        raise ValueError(f"image_model {source} reads {', '.join(map(str, known))} and no pictures: name another model")
    return encoder


def _encode(encoder: Any, decoded: list[Any], source: str, batch_size: int) -> np.ndarray:
    try:
        vectors = encoder.encode(decoded, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"image_model {source} reads no pictures ({reason}): name another model") from error
    return np.asarray(vectors, dtype=np.float32)
