"""Whose vectors are the rows of a published `NAME.emb-MODEL.npy`, as LETTER, MiniOneRec and `care_csv` have them."""

import logging
from glob import escape
from pathlib import Path

import numpy as np

from hf_genrec.catalogue.json_files import read_json

logger = logging.getLogger(__name__)

MARK = ".emb-"


def published_row_ids(path: Path, rows: int, ids_path: Path) -> list[str] | None:
    """
    The item of each row, by a file beside the vectors: an index `NAME*index.json` whose items are numbered from 0 as
    the rows are, or else `NAME*_item_map.npy`, an array of ids. `None` where there is neither.

    Args:
        rows: how many vectors there are.
        ids_path: where the ids are looked for first, for messages.

    Raises:
        ValueError: the map is pickled, or is of other rows.
    """
    name, mark, _ = path.name.partition(MARK)
    if not mark:
        return None
    numbers = list(map(str, range(rows)))
    for index in sorted(path.parent.glob(f"{escape(name)}*index.json")):
        if read_json(index, dict, "correct or remove it").keys() == set(numbers):
            logger.info("%s: row n is item n, as %s numbers them", path, index.name)
            return numbers
    found = sorted(path.parent.glob(f"{escape(name)}*_item_map.npy"))
    return _ids_of_map(found[0], rows, ids_path) if found else None


def _ids_of_map(path: Path, rows: int, ids_path: Path) -> list[str]:
    try:
        ids = np.load(path, allow_pickle=False)
    except Exception as error:  # of many kinds, by what is wrong with its header
        if "allow_pickle" not in str(error):
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} is not a NumPy file that can be read ({reason}): remove or replace it") from None
        code = (
            f"import numpy; ids = numpy.load('{path}', allow_pickle=True).item()['id2item']; "
            f"open('{ids_path}', 'w').write('\\n'.join(str(ids[row]) for row in range(len(ids))))"
        )
        raise ValueError(
            f"{path} is a pickled NumPy file, which can run code and is not read: where you trust it, python -c "
            f'"{code}" writes {ids_path.name}, which is read'
        ) from None
    if not isinstance(ids, np.ndarray) or ids.shape != (rows,) or ids.dtype.kind not in "iuU":
        raise ValueError(f"{path} is no array of {rows} ids, one per row of the vectors: correct or remove it")
    return [str(item_id) for item_id in ids]
