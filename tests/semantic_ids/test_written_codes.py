"""What is said of each code of an item is what the item is scored by."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from tiny_codetree import make_codetree
from tiny_s2gr import make_s2gr
from tiny_stream import make_stream
from tiny_tiger import make_tiger

from hf_genrec.explanation import CodePath
from hf_genrec.method import load_method
from hf_genrec.semantic_ids.written_codes import written_codes

HISTORIES = [np.array([3, 9, 1]), np.array([], dtype=np.int64), np.arange(8)]
MAKERS = [make_model, make_tiger, make_s2gr, make_stream, make_codetree]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("history", HISTORIES, ids=len)
def test_the_codes_add_up_to_the_score(make, history):
    model = make(make_processor())
    token_ids, trie = model.processor.token_ids, model.processor.trie
    firsts = [written_codes(model, history, int(row))[0][0] for row in range(len(token_ids))]
    for item in (0, 17, 39):
        chosen, surest = written_codes(model, history, item)
        score = float(model.score_rows([history], np.array([item]))[0, 0])
        assert chosen.sum() == pytest.approx(score, abs=1e-4)
        assert (surest >= chosen - 1e-6).all()
        assert surest[0] == pytest.approx(max(firsts), abs=1e-5)  # of all items' first codes
    assert trie.num_levels == token_ids.shape[1]


@pytest.mark.parametrize("make", MAKERS[1:], ids=lambda make: make.__name__)
def test_the_picture(make):
    model = make(make_processor())
    history = np.array([3, 9, 1])
    item = int(model.recommend_rows([history], k=1)[0][0, 0])
    (explanation,) = load_method(model.config.model_type).explain(model, history, item, False)
    path = explanation.picture
    assert isinstance(path, CodePath)
    assert path.left[-1].tolist() == [item]
    sizes = [len(rows) for rows in path.left]
    assert sizes == sorted(sizes, reverse=True)
    probabilities = np.exp(written_codes(model, history, item)[0])
    for note, probability in zip(path.notes, probabilities, strict=True):
        assert note.startswith(f"probability {probability:.1%}")
    torch.testing.assert_close(torch.tensor(path.left[0]).sort()[0], torch.tensor(below(model.processor, item)))


def below(processor, item: int) -> list[int]:
    return np.flatnonzero(processor.codes[:, 0] == processor.codes[item, 0]).tolist()
