"""Other preparations of one log, for `data_size`: each reads it, takes the 5-core, splits off the last two items of a
user, and writes what is left. No file of this library is imported, so that it runs where a peer is installed.

    python benchmarks/data_peers.py pandas-loop log.parquet OUT
"""

import sys
from collections import defaultdict
from pathlib import Path

CORE = 5


def pandas_loop(log: Path, out: Path) -> tuple[int, int, int]:
    """As the codes of papers do it: a list of interactions per user in a dict, filtered until nothing changes."""
    import pandas as pd

    frame = pd.read_parquet(log) if log.suffix == ".parquet" else pd.read_csv(log)
    of_users = defaultdict(list)
    for user, item, time in zip(frame["user_id"], frame["item_id"], frame["timestamp"], strict=True):
        of_users[user].append((item, time))
    while True:
        users, items = defaultdict(int), defaultdict(int)
        for user, rows in of_users.items():
            for item, _ in rows:
                users[user] += 1
                items[item] += 1
        if min(users.values()) >= CORE and min(items.values()) >= CORE:
            break
        kept = defaultdict(list)
        for user, rows in of_users.items():
            if users[user] < CORE:
                continue
            for item, time in rows:
                if items[item] >= CORE:
                    kept[user].append((item, time))
        of_users = kept
    user_ids, item_ids, sequences = {}, {}, {}
    for user, rows in of_users.items():
        rows.sort(key=lambda row: row[1])
        number = user_ids.setdefault(user, len(user_ids))
        sequences[number] = [item_ids.setdefault(item, len(item_ids)) for item, _ in rows]
    out.mkdir()
    with (
        (out / "train.txt").open("w") as train,
        (out / "valid.txt").open("w") as valid,
        (out / "test.txt").open("w") as test,
    ):
        for user, items in sequences.items():
            print(user, *items[:-2], file=train)
            print(user, items[-2], file=valid)
            print(user, items[-1], file=test)
    return len(user_ids), len(item_ids), sum(map(len, sequences.values()))


def rectools(log: Path, out: Path) -> tuple[int, int, int]:
    """RecTools' data set and splitter; its k-core is left to pandas, as RecTools has none."""
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset, Interactions
    from rectools.model_selection import LastNSplitter

    frame = pd.read_parquet(log) if log.suffix == ".parquet" else pd.read_csv(log)
    frame = frame.rename(columns={"timestamp": Columns.Datetime})
    frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="s")
    frame[Columns.Weight] = 1.0
    before = -1
    while len(frame) != before:
        before = len(frame)
        frame = frame[frame.groupby(Columns.User)[Columns.Item].transform("size") >= CORE]
        frame = frame[frame.groupby(Columns.Item)[Columns.User].transform("size") >= CORE]
    data = Dataset.construct(frame)
    splitter = LastNSplitter(
        n=1, n_splits=2, filter_cold_users=False, filter_cold_items=False, filter_already_seen=False
    )
    interactions = data.interactions
    out.mkdir()
    for number, (train, test, _) in enumerate(splitter.split(interactions)):
        Interactions(interactions.df.iloc[train]).df.to_parquet(out / f"train{number}.parquet")
        Interactions(interactions.df.iloc[test]).df.to_parquet(out / f"test{number}.parquet")
    return data.user_id_map.size, data.item_id_map.size, len(interactions.df)


def recbole(log: Path, out: Path) -> tuple[int, int, int]:
    """RecBole's data set from an atomic file, with its filters and its leave-one-out split."""
    import pandas as pd
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    folder = out / "log"
    folder.mkdir(parents=True)
    frame = pd.read_parquet(log) if log.suffix == ".parquet" else pd.read_csv(log)
    frame.columns = ["user_id:token", "item_id:token", "timestamp:float"]
    frame.to_csv(folder / "log.inter", sep="\t", index=False)
    del frame
    settings = {
        "data_path": str(out),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "user_inter_num_interval": f"[{CORE},inf)",
        "item_inter_num_interval": f"[{CORE},inf)",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "train_neg_sample_args": None,
        "use_gpu": False,
        "save_dataset": True,
        "checkpoint_dir": str(out / "saved"),
    }
    config = Config(model="GRU4Rec", dataset="log", config_dict=settings)
    data = create_dataset(config)
    counts = data.user_num - 1, data.item_num - 1, data.inter_num  # number 0 is padding
    data_preparation(config, data)
    return counts


if __name__ == "__main__":
    programs = {"pandas-loop": pandas_loop, "rectools": rectools, "recbole": recbole}
    sys.argv, (name, log, out) = sys.argv[:1], sys.argv[1:]
    print("users, items, interactions:", *programs[name](Path(log), Path(out)))
