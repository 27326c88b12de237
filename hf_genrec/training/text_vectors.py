"""The vectors of items for models that read their text: embeddings, whole or their principal components."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from hf_genrec.data.prepared import PreparedData
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.semantic_ids.embedding import embed_texts
from hf_genrec.semantic_ids.ready_made import ready_embeddings
from hf_genrec.semantic_ids.text import item_texts
from hf_genrec.training.lineage import read_lineage
from hf_genrec.training.run_folder import RunFolder


def text_vectors(
    items: pa.Table,
    arguments: TokenizerArguments,
    text_dim: int | None = None,
    embedding_cache: str | Path | None = None,
    new_items: pa.Table | None = None,
) -> np.ndarray:
    """
    Embeddings of the items, (N, D) float32: of their text, or those of `embeddings_path`.

    Args:
        items: one row per item, column item_id and text columns.
        arguments: `text_model` and `text_columns`, or `embeddings_path`.
        text_dim: principal components of the centred embeddings that are kept; `None` keeps the embeddings as they are.
        embedding_cache: folder of the embeddings already made; `None` for the default of `embed_texts`.
        new_items: the embeddings of these instead, centred and projected as those of `items` are, for a model's
            `add_items`.

    Raises:
        ValueError: a missing column, a text model that cannot be loaded, embeddings that do not fit, or more components
            than there are.
    """

    def embedded(items: pa.Table) -> np.ndarray:
        ready_made = ready_embeddings(items, arguments)
        if ready_made is not None:
            return ready_made
        return embed_texts(item_texts(items, arguments.text_columns), arguments.text_model, embedding_cache)

    vectors = embedded(items)
    wanted = vectors if new_items is None else embedded(new_items)
    if text_dim is None:
        return wanted
    if text_dim > min(vectors.shape):
        raise ValueError(
            f"text_dim={text_dim}: the embeddings of {len(vectors)} items, {vectors.shape[1]} long, have at most "
            f"{min(vectors.shape)} principal components"
        )
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float64) - mean
    _, directions = np.linalg.eigh(centred.T @ centred)  # columns, the largest variance last
    return ((wanted.astype(np.float64) - mean) @ directions[:, : -text_dim - 1 : -1]).astype(np.float32)


def new_text_vectors(folder: Path, items: pa.Table) -> np.ndarray:
    """
    What new items enter a trained model with: embeddings made as those of its catalogue were.

    Args:
        folder: the exported model, in its run folder: principal components need the known items' text, too.
        items: the new items, column item_id and text columns.

    Raises:
        ValueError: for a model that does not say how its texts were read, or one whose items were ready-made
            embeddings; as [`text_vectors`].
    """
    settings = (read_lineage(folder) or {}).get("model", {})
    if "text_model" not in settings:
        raise ValueError(f"{folder} does not say how its items' text was read (lineage.json): train it again")
    if settings["embeddings_path"] is not None:
        raise ValueError("this model was trained on ready-made embeddings: a new item's text cannot be encoded")
    arguments = TokenizerArguments(text_model=settings["text_model"], text_columns=settings["text_columns"])
    text_dim = settings.get("text_dim")
    if text_dim is None:
        return text_vectors(items, arguments)
    known = PreparedData.load(RunFolder(folder.parent).data).items
    return text_vectors(known, arguments, text_dim, new_items=items)
