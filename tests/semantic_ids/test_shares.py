"""Several processes make the codes that one makes, each of its share of the items."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from hf_genrec.semantic_ids import shares
from hf_genrec.semantic_ids.ids import SemanticIds

LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_one_process_has_all_rows():
    rows = np.arange(7)
    assert shares.own_share(7) == slice(0, 7)
    np.testing.assert_array_equal(shares.joined_rows(rows), rows)
    assert (shares.of_first("a"), shares.of_all("a"), shares.is_first()) == ("a", ["a"], True)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shares_are_all_rows_once(monkeypatch, processes):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: processes)
    for rows in (0, 1, 5, 24):
        found = []
        for own in range(processes):
            monkeypatch.setattr("torch.distributed.get_rank", lambda own=own: own)
            found.append(list(range(rows))[shares.own_share(rows)])
        assert [row for share in found for row in share] == list(range(rows))
        assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.slow  # two processes, each loading torch and the text model
def test_two_processes_make_the_codes_of_one(own_data, tmp_path):
    """Each text is encoded by one process, and all are in the cache at the end."""
    keys = ["--vectors", "both", "--collaborative_dim", "8", "--projection_dim", "8"]
    made = {}
    for name, launcher in (("alone", []), ("two", LAUNCHER)):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path / name)}
        shared = ["--config", str(own_data / "mine.yaml"), "--output_dir", str(tmp_path / name / "run")]
        prepare = ["-m", "hf_genrec.trainers.prepare_data", *shared]
        tokenize = ["-m", "hf_genrec.trainers.tokenize_items", *shared, *keys]
        for command in (prepare, [*launcher, *tokenize]):
            subprocess.run([sys.executable, *command], check=True, env=environment)
        folder = tmp_path / name / "run/semantic_ids"
        (cache,) = (tmp_path / name / ".cache/hf_genrec/embeddings").iterdir()
        cached = load_file(cache)
        made[name] = (
            SemanticIds.load(folder).codes,
            load_file(folder / "item_tokenizer/model.safetensors"),
            {bytes(key): vector for key, vector in zip(cached["keys"], cached["vectors"], strict=True)},
        )
    (codes, weights, vectors), (same_codes, same_weights, same_vectors) = made.values()
    np.testing.assert_array_equal(same_codes, codes)
    for key, weight in weights.items():
        np.testing.assert_allclose(same_weights[key], weight, atol=1e-6)
    assert same_vectors.keys() == vectors.keys()
    assert len(vectors) == len(codes)
    for key, vector in vectors.items():
        np.testing.assert_allclose(same_vectors[key], vector, atol=1e-6)
