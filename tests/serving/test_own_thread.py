"""A second team of OpenMP threads makes a small model slow: what computes once leaves none behind."""

import subprocess
import sys
import threading

from serving_folders import saved_run

from hf_genrec.serving import served_model

PROGRAM = """
import time
import psutil, torch
from hf_genrec.serving.own_thread import in_own_thread

def threads(): return psutil.Process().num_threads()
def work(): return float(torch.ones(1_000_000).exp().sum())

torch.set_num_threads(2)
before, value = threads(), in_own_thread(work)
while threads() > before:  # a thread that was told to end still counts for a moment
    time.sleep(0.01)
between = threads()
assert work() == value
print(between - before, threads() - between)
"""


def test_the_threads_of_what_was_computed_end_with_it():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["0", "1"]


def test_a_served_model_is_opened_in_such_a_thread(tmp_path, monkeypatch):
    opened_by = []
    open_model = served_model.open_model
    monkeypatch.setattr(
        served_model, "open_model", lambda run: opened_by.append(threading.current_thread()) or open_model(run)
    )
    served_model.ServedModel(saved_run("care", tmp_path))
    assert opened_by[0] is not threading.main_thread()
    assert not opened_by[0].is_alive()
