import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import make_processor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from hf_genrec.data.collator import NextItemCollator
from hf_genrec.data.prepared import PreparedData
from hf_genrec.methods.care.arguments import CareArguments
from hf_genrec.methods.care.modeling_care import CareForCausalLM
from hf_genrec.methods.care.training_care import build_care, build_processor, start_from_centroids
from hf_genrec.semantic_ids.ids import SemanticIds

pytestmark = pytest.mark.libraries

CODES = np.array([[0, 1], [2, 0], [1, 3]])


@pytest.fixture
def prepared():
    return PreparedData(
        user_ids=["u", "v"],
        item_ids=["a", "b", "c"],
        items=pa.table({"item_id": ["a", "b", "c"], "title": ["A", None, "C"]}),
        sequences=[np.array([0, 1, 2, 0]), np.array([1, 1, 0])],
        num_validation=np.array([1, 1]),
        num_test=np.array([1, 1]),
        report={},
    )


@pytest.fixture
def base_model(tmp_path):
    """A Qwen2 folder with a tokenizer of three words."""
    words = Tokenizer(models.WordLevel({"<eos>": 0, "red": 1, "shoe": 2}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=3,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    return str(tmp_path)


def test_the_processor_of_a_catalogue(prepared):
    ids = SemanticIds(["a", "b", "c"], CODES, [3, 4], {})
    processor = build_processor(prepared, ids, max_history=5)
    assert processor.token_ids.tolist() == [[0, 4], [2, 3], [1, 6]]
    assert len(processor.tokenizer) == 3 + 4 + 2
    assert [processor.title(item_id) for item_id in "abc"] == ["A", "b", "C"]
    assert processor.popularity.tolist() == [1, 2, 0]  # training interactions only
    with pytest.raises(ValueError, match="of another catalogue"):
        build_processor(prepared, SemanticIds(["a", "b", "x"], CODES, [3, 4], {}), 5)


def test_codes_join_the_vocabulary_of_a_base_model(prepared, base_model, tmp_path):
    ids = SemanticIds(["a", "b", "c"], CODES, [3, 4], {})
    processor = build_processor(prepared, ids, 5, base_model)
    first = len(AutoTokenizer.from_pretrained(base_model))
    assert (processor.token_ids - first).tolist() == [[0, 4], [2, 3], [1, 6]]
    assert processor.answer_token_id == first + 7
    assert processor.tokenizer.convert_tokens_to_ids("shoe") == 2
    model = build_care(CareArguments(base_model=base_model, num_queries=[1, 2]), processor)
    assert model.model.embed_tokens.weight.shape == (first + 7 + 1, 16)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.max_history == 5
    item_ids, scores = model.recommend(["a", "b"], k=3)
    assert sorted(item_ids) == ["a", "b", "c"]

    model.save_pretrained(tmp_path / "saved")
    again = CareForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.recommend(["a", "b"], k=3) == (item_ids, scores)
    assert again.processor.tokenizer.convert_tokens_to_ids("shoe") == 2


def test_a_base_model_without_tokenizer_is_refused(prepared, base_model, tmp_path):
    """transformers would make an empty one, whose codes took the rows of the base's first words."""
    ids = SemanticIds(["a", "b", "c"], CODES, [3, 4], {})
    (tmp_path / "tokenizer.json").write_text('{"version"')
    with pytest.raises(
        ValueError, match=r"the tokenizer of base_model .* does not open \(put its config\.json.*\): "
    ) as error:
        build_processor(prepared, ids, 5, base_model)
    assert "\n" not in str(error.value)
    (tmp_path / "tokenizer.json").unlink()
    for remaining in (True, False):
        if not remaining:
            (tmp_path / "tokenizer_config.json").unlink()
        with pytest.raises(
            ValueError, match=r"has no tokenizer \(merges\.txt, tokenizer\.json, vocab\.json\): put the"
        ):
            build_processor(prepared, ids, 5, base_model)


def test_a_tokenizer_whose_ids_have_gaps_is_refused(prepared, base_model, tmp_path):
    words = Tokenizer(models.WordLevel({"<eos>": 0, "red": 1, "shoe": 5}, unk_token="<eos>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"tokens '.*' and '.*' of .* have one id, 5: the ids of its tokens have gaps"):
        build_processor(prepared, SemanticIds(["a", "b", "c"], CODES, [3, 4], {}), 5, base_model)


@pytest.mark.parametrize("special", [{}, {"eos_token": "<eos>"}, {"eos_token": "<eos>", "pad_token": "red"}])
def test_padded_embeddings(prepared, base_model, tmp_path, special):
    """The words keep their rows, codes and padding get new ones behind them, and no id exceeds the table."""
    words = Tokenizer(models.WordLevel({"<eos>": 0, "red": 1, "shoe": 2}, unk_token="<eos>"))
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(tmp_path)
    base = Qwen2ForCausalLM.from_pretrained(base_model)
    base.resize_token_embeddings(40)
    with torch.no_grad():
        base.model.embed_tokens.weight[4:] = 1000.0
    base.save_pretrained(tmp_path)
    processor = build_processor(prepared, SemanticIds(["a", "b", "c"], CODES, [3, 4], {}), 5, base_model)
    model = build_care(CareArguments(base_model=base_model), processor)
    table = model.model.embed_tokens.weight
    assert processor.tokenizer.pad_token_id is not None
    assert max(processor.tokenizer.get_vocab().values()) == len(table) - 1
    assert torch.equal(table[:3], base.model.embed_tokens.weight[:3])
    assert processor.token_ids.min() >= 3
    assert table[4:].abs().max() < 1
    assert sorted(model.recommend(["a", "b"], k=3)[0]) == ["a", "b", "c"]
    batch = NextItemCollator(processor)([{"history": np.array([0, 1]), "target": 2}, {"history": [], "target": 1}])
    model.train()(**batch).loss.backward()


def test_code_tokens_a_base_has_already_keep_their_rows(prepared, base_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    tokenizer.add_tokens(["<a_1>", "<b_0>"])
    tokenizer.save_pretrained(tmp_path)
    base = Qwen2ForCausalLM.from_pretrained(base_model)
    base.resize_token_embeddings(len(tokenizer))
    base.save_pretrained(tmp_path)
    processor = build_processor(prepared, SemanticIds(["a", "b", "c"], CODES, [3, 4], {}), 5, base_model)
    model = build_care(CareArguments(base_model=base_model), processor)
    assert processor.code_token_ids[0][1] == len(tokenizer) - 2
    assert torch.equal(
        model.model.embed_tokens.weight[: len(tokenizer)], base.model.embed_tokens.weight[: len(tokenizer)]
    )
    assert len(model.recommend(["a", "b"], k=3)[0]) == 3


def test_another_base_model_is_refused(base_model, tmp_path):
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"is a llama model: CARE starts from Qwen2, Qwen2\.5, Qwen3"):
        CareForCausalLM.from_base(base_model, 5, num_queries=[1], answer_token_id=4)


def test_one_value_stands_for_every_code():
    processor = make_processor()
    model = build_care(CareArguments(num_queries=[2], progressive=[False]), processor)
    assert model.config.num_queries == [2, 2, 2]
    assert model.config.progressive == [False, False, False]
    # room for the longest history, its answer, and the queries
    assert model.config.max_position_embeddings == (8 + 1) * 3 + 1 + 6
    with pytest.raises(ValueError, match="num_queries has 2 entries for items of 3 codes"):
        build_care(CareArguments(num_queries=[1, 2]), processor)


@pytest.mark.parametrize(("dim", "width"), [(6, 16), (32, 16)])
def test_code_embeddings_start_from_the_centroids(dim, width):
    """Distances between codes of a level, and across levels, are the centroids' up to one factor a level."""
    processor = make_processor(sizes=(5, 6, 7))
    model = build_care(CareArguments(hidden_size=width, num_attention_heads=2), processor)
    before = model.model.embed_tokens.weight.clone()
    generator = torch.Generator().manual_seed(1)
    codebooks = [torch.randn(size, dim, generator=generator) for size in (5, 6)]
    start_from_centroids(model, processor, codebooks, seed=0)
    table = model.model.embed_tokens.weight
    for token_ids, codebook in zip(processor.code_token_ids, codebooks, strict=False):
        vectors = table[torch.from_numpy(token_ids)]
        assert vectors.std().item() == pytest.approx(model.config.initializer_range, rel=1e-4)
        assert vectors.mean(0).abs().max() < 1e-7
        if dim <= width:
            ratio = torch.pdist(vectors) / torch.pdist(codebook)
            torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)
    untouched = torch.from_numpy(processor.code_token_ids[2])
    assert torch.equal(table[untouched], before[untouched])
    assert model.lm_head.weight is table
