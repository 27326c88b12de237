"""Training targets per second: ReaRec's packed rows against RecBole's SASRec, at equal size, on the same targets.

    pip install --no-deps recbole==1.2.1 colorlog==4.7.2 colorama==0.4.4 thop texttable
    python -m benchmarks.rearec_training --data ../data/amazon2014_beauty

(What else RecBole needs is there with `hf_genrec[bench]`.) Both train a SASRec of 2 layers, 2 heads, hidden size 64,
inner size 256, at most 50 history items, dropout 0.5 everywhere, cross-entropy over all items, with Adam. The ways:

- RecBole: its own data set, loader and trainer as shipped (but for autograd's anomaly detection, which it leaves on): a
  row per target, padded to 50, 2,048 rows a step.
- RecBole, by length: the same trainer and rows, sorted by length and trimmed to the longest of the batch.
- packed: this project without reasoning, with as many targets a step on average, in random order; by length: rows of
  like length together; sampled: 512 shared negatives instead of all items.
- ERL, PRL: with two reasoning steps; PRL with its noise.

Batches by length are drawn evenly from all lengths. With RecBole's weights copied, both give the same loss on the same
targets (checked first, without dropout). A step is making the batch, forward, backward and the optimizer. The ratios
are of CPU time, in which other work of the machine does not count.
"""

import contextlib
import itertools
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.measure import alternate, arguments, threads, write_result
from benchmarks.packing import evenly
from hf_genrec.data.sequence_rows import PackedSequences, SequenceCollator
from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig, ReaRecForNextItem

HISTORY, TARGETS, DROPOUT = 50, 2048, 0.5
SIZE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "temperature": 1.0}
WAYS: dict[str, dict[str, Any]] = {
    "packed": {"reasoning": "none"},
    "packed, by length": {"reasoning": "none"},
    "packed, sampled": {"reasoning": "none", "loss_type": "sampled_softmax", "num_negatives": 512},
    "packed, ERL": {"reasoning": "erl"},
    "packed, PRL": {"reasoning": "prl"},
}
BARS = {"RecBole": 4.0, "RecBole, by length": 2.0}  # times as fast "packed" has to be, on one thread


class RecBole:
    """
    RecBole's SASRec with its data set, loader and trainer.

    Args:
        users: items of each user, oldest first, the last two held out as RecBole's leave-one-out does.
        folder: for the files that RecBole reads and writes.
    """

    def __init__(self, users: list[list[str]], folder: Path):
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.data.interaction import Interaction
        from recbole.model.sequential_recommender import SASRec
        from recbole.trainer import Trainer

        # One of its models turns this on for the whole process when imported: it would slow down everybody.
        torch.autograd.set_detect_anomaly(False)
        self.interaction = Interaction
        lines = ["user_id:token\titem_id:token\ttimestamp:float"]
        for user, items in enumerate(users):
            lines += [f"{user}\t{item}\t{place}" for place, item in enumerate(items)]
        (folder / "data").mkdir()
        (folder / "data/data.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
        settings = {
            "data_path": str(folder),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": HISTORY,
            "train_batch_size": TARGETS,
            "train_neg_sample_args": None,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
            "hidden_dropout_prob": DROPOUT,
            "attn_dropout_prob": DROPOUT,
            "use_gpu": False,
            "state": "ERROR",
        }
        # It reads this program's command line, makes folders for logs and checkpoints where it stands, and names types
        # that numpy 2 no longer has.
        gone = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
        with (
            mock.patch.object(sys, "argv", sys.argv[:1]),
            mock.patch.multiple(np, create=True, **gone),
            contextlib.chdir(folder),
            warnings.catch_warnings(action="ignore"),  # that filling gaps is without effect in pandas 3: there are none
        ):
            config = Config(model="SASRec", dataset="data", config_dict=settings)
            data = create_dataset(config)
            self.loader, _, _ = data_preparation(config, data)
            torch.manual_seed(0)
            self.model = SASRec(config, self.loader.dataset)
            self.trainer = Trainer(config, self.model)
        self.rows = self.loader.dataset.inter_feat  # one per target
        self.lengths = self.rows["item_length"].numpy()
        self.users = np.array([int(user) for user in data.id2token("user_id", self.rows["user_id"])])
        self.item_ids = data.field2id_token["item_id"]  # by row of the item table; the first is padding

    def train(self, batches) -> None:
        self.trainer._train_epoch(batches, 0)

    def trimmed(self, rows: np.ndarray):
        """A batch of these rows, as wide as the longest."""
        batch = self.loader.collate_fn(rows)
        width = int(batch["item_length"].max())
        names = ("item_id", "item_length")
        return self.interaction(
            {name: batch[name] for name in names} | {"item_id_list": batch["item_id_list"][:, :width]}
        )

    def copy_weights(self, model: ReaRecForNextItem, row_of: dict[str, int]) -> None:
        """Put RecBole's weights into a model of the same size. Only the rows of the tables stand in another order."""
        theirs, ours = self.model.state_dict(), model.state_dict()
        for name in ours:
            source = name.removeprefix("model.")
            for mine, their in (
                ("items.embeddings", "item_embedding"),
                ("position_embeddings", "position_embedding"),
                ("layers.", "trm_encoder.layer."),
                (".attention.output", ".multi_head_attention.dense"),
                (".attention.", ".multi_head_attention."),
                (".up.", ".dense_1."),
                (".down.", ".dense_2."),
                ("layer_norm", "LayerNorm"),
            ):
                source = source.replace(mine, their)
            tensor = theirs.pop(source)
            if source == "item_embedding.weight":  # padding is their first row and our last
                order = torch.tensor([len(row_of), *(row_of[item] for item in self.item_ids[1:])])
                tensor = torch.empty_like(tensor).index_copy_(0, order, tensor)
            elif source == "position_embedding.weight":  # ours has a last row for padding, which nothing reads
                tensor = torch.cat([tensor, torch.zeros_like(tensor[:1])])
            ours[name] = tensor
        assert not theirs, f"left over: {list(theirs)}"
        model.load_state_dict(ours)


def main() -> None:
    options = arguments(__doc__, data=Path("data/amazon2014_beauty"), batches=8)
    users = [line.split()[1:] for line in (options.data / "sequences.txt").read_text(encoding="utf-8").splitlines()]
    row_of = {item: row for row, item in enumerate(sorted({item for user in users for item in user}))}
    sequences = [np.array([row_of[item] for item in user[:-2]], dtype=np.int64) for user in users]
    rows, collator = PackedSequences(sequences, "all", HISTORY), SequenceCollator(len(row_of), packed=True)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        recbole = RecBole(users, Path(folder))
        checked = check_same(recbole, rows, collator, row_of)
        results = {}
        for count in options.threads:
            with threads(count):
                drawn, ways = draw(recbole, rows, collator, options.batches)
                measured = alternate(ways, options.repeats)
            for name, figures in measured.items():
                for seconds in ("seconds", "cpu_seconds"):
                    figures[f"targets_per_{seconds.removesuffix('s')}"] = drawn[name] / figures[seconds]
            results[f"{count} threads"] = {"ways": measured, "bars": report(count, measured)}
    settings = vars(options) | {"data": options.data.name}
    results |= {"checked": checked, "load_average": os.getloadavg()}
    print(write_result("rearec_training", "python -m benchmarks.rearec_training", settings, results))


def build(num_items: int, dropout: float, **fields) -> ReaRecForNextItem:
    torch.manual_seed(0)
    dropouts = dict.fromkeys(("embedding_dropout", "hidden_dropout", "attention_dropout"), dropout)
    return ReaRecForNextItem(ReaRecConfig(num_items=num_items, max_history=HISTORY, **SIZE, **dropouts, **fields))


def check_same(recbole: RecBole, rows: PackedSequences, collator: SequenceCollator, row_of: dict) -> dict[str, Any]:
    """All of RecBole's targets are ours, and a hundred users' have the same loss and gradient with the same weights."""
    assert len(recbole.rows) == rows.num_targets, (len(recbole.rows), rows.num_targets)
    chosen = np.unique(recbole.users)[:: len(np.unique(recbole.users)) // 100]
    theirs = recbole.trimmed(np.flatnonzero(np.isin(recbole.users, chosen)))
    batch = collator([rows[row] for row in np.flatnonzero(np.isin(rows.users, chosen))])
    expected = sorted(row_of[recbole.item_ids[item]] for item in theirs["item_id"].tolist())
    targets = batch["sequence_labels"][batch["sequence_labels"] != -100]
    assert sorted(targets.tolist()) == expected, "the targets differ"

    model = build(len(row_of), 0.0, reasoning="none")
    recbole.copy_weights(model, row_of)
    recbole.model.eval()
    their_loss, loss = recbole.model.calculate_loss(theirs), model(**batch).loss
    their_loss.backward()
    loss.backward()
    gradients = [recbole.model.LayerNorm.weight.grad, model.model.layer_norm.weight.grad]
    recbole.model.zero_grad()
    torch.testing.assert_close(loss, their_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)
    losses = f"{loss.item():.6f}, RecBole's {their_loss.item():.6f}"
    print(f"{rows.num_targets} targets; loss of {len(expected)} of them {losses}")
    return {"targets": rows.num_targets, "loss": loss.item(), "recbole_loss": their_loss.item()}


def forever(loader) -> Iterator:
    while True:
        yield from loader


def draw(
    recbole: RecBole, rows: PackedSequences, collator: SequenceCollator, count: int
) -> tuple[dict[str, int], dict[str, Callable[[], Any]]]:
    """
    The ways to train, each a function that takes some steps, and how many targets these steps have.

    The ways that take longest take fewer steps.
    """
    few = max(1, count // 4)
    shipped = forever(recbole.loader)
    by_length = evenly(recbole.lengths, TARGETS, count)
    ways: dict[str, Callable[[], Any]] = {
        "RecBole": lambda: recbole.train(itertools.islice(shipped, few)),
        "RecBole, by length": lambda: recbole.train(recbole.trimmed(batch) for batch in by_length),
    }
    drawn = {"RecBole": few * TARGETS, "RecBole, by length": by_length.size}
    size = round(TARGETS / rows.labels_per_row)
    batches = {
        "at random": np.random.default_rng(0).permutation(len(rows))[: count * size].reshape(count, size),
        "by length": evenly(rows.lengths, size, count),
    }
    for name, fields in WAYS.items():
        order = batches["by length" if name.endswith("by length") else "at random"]
        model = build(collator.pad, DROPOUT, **fields).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)  # as Trainer does
        loader = DataLoader(rows, batch_sampler=order.tolist(), collate_fn=collator)
        ways[name] = lambda model=model, optimizer=optimizer, loader=loader: train(model, optimizer, loader)
        drawn[name] = sum(int((batch["sequence_labels"] != -100).sum()) for batch in loader)
    return drawn, ways


def train(model: ReaRecForNextItem, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    config = model.config
    for batch in loader:
        if config.reasoning == "prl":
            num_targets = int((batch["sequence_labels"] != -100).sum())
            batch["noise"] = torch.randn(config.steps, num_targets, config.hidden_size)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def report(count: int, measured: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Print the figures of one number of threads; the bars, which are about one thread."""
    speeds = {name: figures["targets_per_cpu_second"] for name, figures in measured.items()}
    print(f"\n{count} thread(s)          targets/s   targets/CPU s   times RecBole   times RecBole by length")
    for name, speed in speeds.items():
        print(
            f"{name:<20}{measured[name]['targets_per_second']:>10.0f}{speed:>16.0f}{speed / speeds['RecBole']:>16.2f}"
            f"{speed / speeds['RecBole, by length']:>26.2f}"
        )
    if count != 1:
        return []
    bars = []
    for peer, limit in BARS.items():
        ratio = speeds["packed"] / speeds[peer]
        bars.append({"bar": f"packed over {peer}", "limit": limit, "ratio": ratio, "holds": ratio >= limit})
        print(
            f"{'holds' if ratio >= limit else 'MISSED'}: packed is {ratio:.2f} times as fast as {peer}, bar {limit:g}"
        )
    return bars


if __name__ == "__main__":
    main()
