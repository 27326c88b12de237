"""The path of an item from its text to its semantic ID."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_genrec.files import weights_fingerprint, whole_folder, working_in, write_json
from hf_genrec.item_tokenizers import load_item_tokenizer
from hf_genrec.item_tokenizers.item_tokenizer import ItemTokenizer
from hf_genrec.pictures import IMAGE, Pictures

from .arguments import TokenizerArguments
from .collaborative import collaborative_vectors, cooccurrence_counts, recommender_vectors
from .collisions import count_collisions, place_new_items, settle_collisions
from .embedding import embed_texts
from .health import draw_health, health_report
from .ids import SemanticIds
from .images import embed_images
from .propagation import propagate
from .ready_made import ready_embeddings
from .shares import joined_rows, own_share
from .text import item_texts

logger = logging.getLogger(__name__)


def item_parts(
    items: pa.Table,
    train_sequences: list[np.ndarray],
    arguments: TokenizerArguments,
    embedding_cache: str | Path | None = None,
    pictures: Pictures | None = None,
) -> dict[str, np.ndarray]:
    """What an item tokenizer is fitted on: by name, the parts (N, D_part) of the items' vectors.

    Where several processes were started together, all have to ask: texts and pictures are encoded in shares.

    Args:
        items: one row per item, column item_id and text columns; of `image_model` also image.
        train_sequences: item indices (rows of `items`) per user, oldest first, of the training part only.
        embedding_cache: folder of the text embeddings already made; None for the default of `embed_texts`.
        pictures: what finds the items' pictures, see `embed_images`.

    Raises:
        ValueError: an empty catalogue, a missing column, embeddings that do not fit, or a `collaborative_run` of other
            data; or, of vectors that are propagated, no two items that co-occur.
    """
    if not items.num_rows:
        raise ValueError("the catalogue is empty; check the filters (min_rating, user_core, item_core)")
    parts: dict[str, np.ndarray] = {}
    if arguments.vectors not in ("collaborative", "image"):
        embeddings = ready_embeddings(items, arguments)
        if embeddings is not None:
            parts["embeddings"] = embeddings
        else:
            texts = item_texts(items, arguments.text_columns)
            parts["text"] = embed_texts(texts, arguments.text_model, embedding_cache, shared=True)
    if arguments.image_model is not None:
        parts["image"] = embed_images(items, arguments.image_model, embedding_cache, pictures, shared=True)
    if arguments.vectors == "propagated":
        counts = cooccurrence_counts(train_sequences, items.num_rows, arguments.collaborative_window)
        return {name: propagate(part, counts) for name, part in parts.items()}
    if arguments.vectors in ("collaborative", "both"):
        parts["collaborative"] = item_collaborative_vectors(items, train_sequences, arguments)
        unseen = int((parts["collaborative"] == 0).all(axis=1).sum())
        if unseen:
            logger.warning("%d of %d items have no collaborative vector: the mean stands in", unseen, items.num_rows)
    return parts


def item_collaborative_vectors(
    items: pa.Table, train_sequences: list[np.ndarray], arguments: TokenizerArguments
) -> np.ndarray:
    """
    The collaborative vectors (N, D) of the items, of length 1, by `collaborative_run` or from co-occurrence; zero for
    items that training never saw.

    Raises:
        ValueError: as `recommender_vectors` and `collaborative_vectors`.
    """
    if arguments.collaborative_run is not None:
        item_ids = [str(item_id) for item_id in items.column("item_id").to_pylist()]
        return recommender_vectors(arguments.collaborative_run, item_ids, train_sequences)
    return collaborative_vectors(
        train_sequences,
        items.num_rows,
        dim=arguments.collaborative_dim,
        window=arguments.collaborative_window,
        seed=arguments.tokenizer_seed,
    )


def assign_semantic_ids(
    items: pa.Table,
    parts: dict[str, np.ndarray],
    tokenizer: ItemTokenizer,
    arguments: TokenizerArguments,
    train_sequences: Sequence[np.ndarray] | None = None,
) -> tuple[SemanticIds, dict[str, Any]]:
    """Semantic IDs by a fitted tokenizer, collisions settled, and their health report.

    With `collisions: extra_code` the ids have one code more than the tokenizer. Where several processes were started
    together, all have to ask: each encodes its share.

    Args:
        items: one row per item, column item_id.
        parts: what `item_parts` made of them.
        train_sequences: as there; the report then says what codes tell of the next item.

    Raises:
        ValueError: an item finds no free codes.
    """
    vectors = tokenizer.join(**parts).cpu().numpy()
    own = tokenizer.encode(vectors[own_share(len(vectors))])
    codes, sizes, collisions = settle_collisions(
        joined_rows(own.cpu().numpy()), vectors, tokenizer, arguments.collisions
    )
    report = {
        "item_tokenizer": tokenizer.config.model_type,
        "ordered": tokenizer.ordered,
        "vectors": arguments.vectors,
        **({"embeddings_path": arguments.embeddings_path} if arguments.embeddings_path is not None else {}),
        "tokenizer_seed": arguments.tokenizer_seed,
        "collisions": collisions,
    }
    semantic_ids = SemanticIds([str(item_id) for item_id in items.column("item_id").to_pylist()], codes, sizes, report)
    return semantic_ids, health_report(semantic_ids, tokenizer, vectors, train_sequences)


def save_semantic_ids(
    folder: Path,
    semantic_ids: SemanticIds,
    health: dict[str, Any],
    made_from: dict[str, Any],
    tokenizer: ItemTokenizer | None = None,
) -> None:
    """
    Write the codes, their health as JSON and PNG and, if one made them, the tokenizer (`item_tokenizer/`). The folder
    appears whole, in place of an older one.

    Args:
        made_from: what the report says of where the codes come from, see `hf_genrec.training.lineage`.
    """
    with working_in(folder.parent), whole_folder(folder) as new:
        if tokenizer is not None:
            tokenizer.save_pretrained(new / "item_tokenizer")
        made_from = made_from | {"item_tokenizer": weights_fingerprint(new / "item_tokenizer")}
        semantic_ids.report["made_from"] = made_from
        semantic_ids.save(new)
        write_json(health, new / "health.json")
        draw_health(semantic_ids, health, new / "health.png")
    collisions = health["collisions"]
    logger.info(
        "%s: %d items, codebooks %s, used %s, items with shared codes %d (before: %d)",
        folder,
        len(semantic_ids.item_ids),
        semantic_ids.codebook_sizes,
        [level["used"] for level in health["levels"]],
        collisions["after"]["items"],
        collisions["before"]["items"],
    )


def encode_new_items(
    tokenizer: ItemTokenizer,
    semantic_ids: SemanticIds,
    items: pa.Table,
    text_model: str | None = None,
    text_columns: list[str] | None = None,
    embedding_cache: str | Path | None = None,
    embeddings: np.ndarray | None = None,
    pictures: Pictures | None = None,
) -> SemanticIds:
    """The catalogue with new items at its end, from their text, their pictures or their ready-made embeddings alone;
    the codes already given do not change.

    A new item has no collaborative vector: the part's mean stands in for it, as it did for the items that training
    never saw, and for a picture that it has not. Collisions are settled by the policy of the catalogue, against the
    items already there.

    Args:
        items: the new items, column item_id and text columns, and image if the tokenizer was fitted on pictures.
        text_model, text_columns: None for those the tokenizer was fitted with.
        embeddings: (M, D) vectors of the new items, for a tokenizer that was fitted on ready-made ones: of the model
            that made those (`load_embeddings` reads them from a file).
        pictures: what finds the items' pictures, see `embed_images`.

    Raises:
        ValueError: an item that is in the catalogue already, codes that this tokenizer did not make, a tokenizer fitted
            without text, or embeddings missing or given where they cannot be read.
    """
    ready_made = "embeddings" in tokenizer.config.part_names
    if ready_made and embeddings is None:
        raise ValueError(
            "this tokenizer was fitted on ready-made embeddings (embeddings_path), so a new item's text cannot be "
            "encoded: give embeddings, its vectors of the same model"
        )
    if embeddings is not None and not ready_made:
        raise ValueError("this tokenizer was fitted without ready-made embeddings: leave embeddings out")
    with_text, with_image = (name in tokenizer.config.part_names for name in ("text", "image"))
    if not (ready_made or with_text or with_image):
        raise ValueError(
            "this tokenizer was fitted without text, so a new item has nothing to encode; use vectors: both"
        )
    new_ids = [str(item_id) for item_id in items.column("item_id").to_pylist()]
    known = set(semantic_ids.item_ids).intersection(new_ids)
    if known:
        raise ValueError(f"item {min(known)!r} has semantic IDs already; give new items only")
    parts: dict[str, np.ndarray] = {}
    if embeddings is not None:
        if len(embeddings) != len(new_ids):
            raise ValueError(f"{len(embeddings)} embeddings for {len(new_ids)} new items: give one per item")
        parts["embeddings"] = embeddings
    elif with_text:
        texts = item_texts(items, text_columns or tokenizer.config.text_columns)
        model = text_model or tokenizer.config.text_model or "minilm"
        parts["text"] = embed_texts(texts, model, embedding_cache)
    if with_image:
        shown = IMAGE in items.column_names and items.column(IMAGE).null_count < len(new_ids)
        if shown or not parts:
            parts["image"] = embed_images(items, tokenizer.config.image_model, embedding_cache, pictures)
        else:
            logger.warning("none of %d new items has a picture: the mean stands in", len(new_ids))
    vectors = tokenizer.join(**parts)
    codes = tokenizer.encode(vectors).cpu().numpy()
    placed = place_new_items(codes, vectors.cpu().numpy(), tokenizer, semantic_ids)
    return semantic_ids.add_items(new_ids, placed)


def continue_semantic_ids(
    folder: Path, items: pa.Table, embedding_cache: str | Path | None = None, pictures: Pictures | None = None
) -> tuple[SemanticIds, dict[str, Any], ItemTokenizer | None]:
    """The semantic IDs of a newer catalogue: the items of an earlier one keep their codes, new ones get theirs from its
    item tokenizer ([`encode_new_items`]). Codes of items that are gone stay taken.

    Args:
        folder: `semantic_ids/` of the earlier run.
        items: one row per item of the newer catalogue, column item_id and text columns.
        pictures: what finds the items' pictures, see `embed_images`.

    Returns:
        the codes in the order of `items`; their health report; the item tokenizer, if the earlier run has one.

    Raises:
        FileNotFoundError: no codes, or new items and no item tokenizer (published codes have none).
        ValueError: as `encode_new_items`.
    """
    earlier, tokenizer_folder = SemanticIds.load(folder), folder / "item_tokenizer"
    tokenizer = load_item_tokenizer(tokenizer_folder) if tokenizer_folder.is_dir() else None
    item_ids, known = [str(item_id) for item_id in items.column("item_id").to_pylist()], set(earlier.item_ids)
    new = [row for row, item_id in enumerate(item_ids) if item_id not in known]
    grown = earlier
    if new:
        if tokenizer is None:
            raise FileNotFoundError(
                f"item {item_ids[new[0]]!r} is new, and {folder} has no item_tokenizer that gives it codes: published "
                f"codes are extended where they come from"
            )
        grown = encode_new_items(
            tokenizer, earlier, items.take(new), embedding_cache=embedding_cache, pictures=pictures
        )
    row_of = {item_id: row for row, item_id in enumerate(grown.item_ids)}
    codes = grown.codes[[row_of[item_id] for item_id in item_ids]]
    report = dict(grown.report)
    if "collisions" in report:
        report["collisions"] = report["collisions"] | {"after": count_collisions(codes)}
    logger.info("%d items keep their codes of %s, %d are new", len(item_ids) - len(new), folder, len(new))
    semantic_ids = SemanticIds(item_ids, codes, earlier.codebook_sizes, report)
    return semantic_ids, health_report(semantic_ids), tokenizer
