"""A log without validation targets is refused before a model is trained, by every command that reads the split."""

import pytest
from conftest import exit_code

METHODS = {
    "care": ["--codebook_sizes", "3", "4", "--hidden_size", "32"],
    "reg4rec": ["--codebook_sizes", "3", "4", "--hidden_size", "32", "--item_tokenizer", "mpq", "--latent_dim", "4"],
    "rearec": ["--hidden_size", "32"],
}


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_trained_without_validation_targets(tmp_path, method, capsys):
    rows = [f"u{user},i{(user + place) % 6},{1_600_000_000 + place}" for user in range(12) for place in range(2)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    run = tmp_path / "run"
    options = ["--source", "tabular", "--source_path", tmp_path / "log.csv", "--output_dir", run, "--use_cpu", "true"]
    options += ["--method", method, *METHODS[method]]
    if method != "rearec":
        options += ["--vectors", "collaborative", "--collaborative_dim", "4"]
    assert exit_code("prepare", *options) == 0
    if method == "reg4rec":
        assert exit_code("tokenize", *options, "--tokenizer_epochs", "1") == 0
    elif method == "care":
        assert exit_code("tokenize", *options) == 0
    capsys.readouterr()
    for command in (("train",), ("sweep", "--key", "learning_rate", "--values", "0.1,0.2")):
        assert exit_code(*command, *options) == 2
        error = capsys.readouterr().err
        assert error.strip().splitlines()[-1].startswith("error: the validation split has no targets"), error
        assert not (run / "checkpoints").exists()
        assert not (tmp_path / "run-learning_rate-0.1").exists()
