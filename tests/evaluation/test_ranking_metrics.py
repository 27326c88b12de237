"""The `evaluate` module, loaded from its folder in a process without a network."""

import math

import pytest


@pytest.fixture(scope="module")
def ranking_metrics(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import evaluate

        # evaluate copies the module before it imports it: to a folder of the test's own, so never a stale copy
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path_factory.mktemp("modules"))
        from hf_genrec.evaluation import load_ranking_metrics

        yield load_ranking_metrics()


@pytest.mark.parametrize("convert", [str, int])
def test_ids_may_be_strings_or_ints(ranking_metrics, convert):
    predictions = [[convert(item) for item in items] for items in ([31, 1, 7, 2], [4, 50])]
    references = [[convert(item) for item in items] for items in ([31, 7], [50])]
    values = ranking_metrics.compute(predictions=predictions, references=references, k=[1, 3])
    assert values == pytest.approx(
        {
            "recall@1": 0.25,
            "ndcg@1": 0.5,
            "mrr@1": 0.5,
            "precision@1": 0.5,
            "recall@3": 1.0,
            "ndcg@3": (1.5 / (1 + 1 / math.log2(3)) + 1 / math.log2(3)) / 2,
            "mrr@3": 0.75,
            "precision@3": 0.5,
        }
    )


def test_default_cut_offs_and_an_empty_list(ranking_metrics):
    values = ranking_metrics.compute(predictions=[[], ["a"]], references=[["a"], ["a"]])
    assert [name for name in values if name.startswith("recall")] == ["recall@5", "recall@10", "recall@20"]
    assert values["recall@20"] == 0.5
    assert values["precision@5"] == pytest.approx(0.1)


def test_batches_add_up(ranking_metrics):
    ranking_metrics.add_batch(predictions=[["a", "b"]], references=[["b"]])
    ranking_metrics.add(prediction=["c"], reference=["d"])
    assert ranking_metrics.compute(k=[2])["mrr@2"] == pytest.approx(0.25)
