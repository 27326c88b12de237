"""The items of each list by a faiss index, in the place of a comparison with all of them: for large catalogues."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_genrec.catalogue.json_files import naming, number, read_json
from hf_genrec.decoding.recommend_by_scores import ItemRecommenderMixin
from hf_genrec.files import fingerprint, whole_folder, write_json
from hf_genrec.training.run_folder import RunFolder

FOLDER, INDEX_FILE, FACTS_FILE = "index", "index.faiss", "index.json"
SAMPLE_PER_LIST = 64  # vectors that the middle of each list is found from
K = 10


class ItemIndex:
    """
    Item vectors in lists of like ones (`IndexIVFFlat`, inner product). A search compares a user with the items of the
    lists that are nearest.

    Args:
        index: of faiss.
        facts: what is known of it: `vectors`, the fingerprint of the item vectors, `num_items`, `num_lists` and
            `num_probes`, the lists that a search looks into; with what [`measure`] found.
    """

    def __init__(self, index: Any, facts: dict[str, Any]):
        self.index = index
        self.facts = facts
        self.num_items = facts["num_items"]

    @classmethod
    def build(cls, model: Any, num_lists: int | None = None, seed: int = 0) -> "ItemIndex":
        """
        The index of a model's items, which looks into one list until [`measure`] says how many it needs.

        Args:
            num_lists: by default four times the root of the number of items.

        Raises:
            ValueError: for a model that does not score items by their vectors, or more lists than items.
        """
        faiss = _faiss()
        vectors = _vectors(model)
        if num_lists is None:
            num_lists = max(1, min(len(vectors), int(4 * len(vectors) ** 0.5)))
        if not 1 <= num_lists <= len(vectors):
            raise ValueError(f"{num_lists} lists of {len(vectors)} items: give from 1 to as many as there are items")
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], num_lists, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.seed, index.cp.min_points_per_centroid = seed, 1
        index.cp.max_points_per_centroid = SAMPLE_PER_LIST
        index.train(vectors)
        index.add(vectors)
        facts = {"vectors": fingerprint([vectors.data]), "num_items": len(vectors), "num_lists": num_lists}
        return cls(index, facts | {"num_probes": 1})

    def search(self, users: np.ndarray, k: int) -> np.ndarray:
        """Rows (B, k) int64 of the items found for vectors (B, d) float32, -1 where there are fewer."""
        self.index.nprobe = self.facts["num_probes"]
        return self.index.search(users, k)[1]

    def measure(self, model: Any, histories: list[np.ndarray], recall: float = 0.99) -> None:
        """
        Chooses the fewest lists to look into, a power of two or all, that find the share `recall` of the best ten items
        of these histories, and writes down what they find (`recall@10`) and of how many users.
        """
        exact, _ = model.recommend_rows(histories, K, exclude_seen=False)
        found, num_lists = 0.0, self.facts["num_lists"]
        probes = [2**power for power in range(num_lists.bit_length()) if 2**power < num_lists]
        try:
            for self.facts["num_probes"] in [*probes, num_lists]:
                model.item_index = self
                rows, _ = model.recommend_rows(histories, K, exclude_seen=False)
                hits = [len(np.intersect1d(ours, best)) for ours, best in zip(rows, exact, strict=True)]
                found = float(np.sum(hits) / exact.size)
                if found >= recall:
                    break
        finally:
            model.item_index = None
        self.facts |= {f"recall@{K}": found, "users": len(histories)}

    def attach(self, model: Any) -> None:
        """
        Lists of the model are made by this index from now on.

        Raises:
            ValueError: if it is the index of other item vectors.
        """
        if fingerprint([_vectors(model)[: self.num_items].data]) != self.facts["vectors"]:
            raise ValueError("the index is of other item vectors than the model's: build it again by `hf-genrec index`")
        model.item_index = self

    def save(self, run: RunFolder) -> Path:
        """Writes `index/` of a run, whole, in the place of an older one."""
        folder = run.path / FOLDER
        with whole_folder(folder) as new:
            _faiss().write_index(self.index, str(new / INDEX_FILE))
            write_json(self.facts, new / FACTS_FILE)
        return folder

    @classmethod
    def load(cls, run: RunFolder) -> "ItemIndex":
        """
        Reads what [`save`] wrote.

        Raises:
            FileNotFoundError: if the run has none.
            ValueError: if a file is damaged.
        """
        folder = run.path / FOLDER
        if not (folder / FACTS_FILE).is_file():
            raise FileNotFoundError(f"{folder} holds no index: build one by `hf-genrec index {run.path}`")
        facts = read_json(folder / FACTS_FILE)
        with naming(folder / FACTS_FILE):
            for name in ("num_items", "num_lists", "num_probes"):
                number(facts[name])
        try:
            index = _faiss().read_index(str(folder / INDEX_FILE))
        except RuntimeError as error:  # of faiss: its message spans lines
            raise ValueError(f"{folder / INDEX_FILE} is damaged: build it again by `hf-genrec index`") from error
        if index.ntotal != facts["num_items"]:
            raise ValueError(f"the files in {folder} are not of one index: build it again by `hf-genrec index`")
        return cls(index, facts)


def _vectors(model: Any) -> np.ndarray:
    """(N, d) float32, of the items in catalogue order."""
    if not isinstance(model, ItemRecommenderMixin):
        kind = model.config.model_type
        raise ValueError(f"a model of type {kind} writes codes, whose cost does not grow with the items: it needs none")
    with torch.no_grad():
        vectors = model.item_vectors()[: len(model.processor.item_ids)]
    return np.ascontiguousarray(vectors.detach().float().cpu().numpy())


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ImportError('faiss is not installed: pip install "hf_genrec[index]"') from None
    return faiss
