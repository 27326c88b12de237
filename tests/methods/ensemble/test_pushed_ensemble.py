"""An ensemble on the Hub: pushed by both ways, opened by a process without the library, and each of its members."""

import json
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from test_push import HISTORIES, read, run

from hf_genrec.hub import WITHOUT_LIBRARY

pytestmark = pytest.mark.libraries

PUSH = """
import json
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
from conftest import make_model
from tiny_ensemble import tiny_ensemble
from hf_genrec.hub import push

folder, histories = Path(sys.argv[1]), json.loads(sys.argv[2])
model = tiny_ensemble()
model.processor.exclude_seen = True
model.save_pretrained(folder / "model")
push(folder / "model", "my-org/both")
model.push_to_hub("my-org/again")
import hf_genrec
home = hf_genrec.load("my-org/both").recommend(histories, k=5)
members = [member.recommend(histories, k=5) for member in model.members]
print(json.dumps([model.recommend(histories, k=5), home, *members]))
"""

LOAD = (
    WITHOUT_LIBRARY
    + """
import json
import torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

histories, trust = json.loads(sys.argv[1]), {"trust_remote_code": True}
models = [AutoModelForCausalLM.from_pretrained(repo, **trust) for repo in ("my-org/both", "my-org/again")]
for number, auto in ((1, AutoModelForCausalLM), (2, AutoModelForSequenceClassification)):
    models.append(auto.from_pretrained("my-org/both", subfolder=f"member_{number}", **trust))
print(json.dumps([model.recommend(histories, k=5) for model in models]))
"""
)


def test_a_stranger_opens_what_was_pushed(tmp_path):
    with LoopbackHub() as hub:
        tests = str(Path(__file__).parents[2])
        asked = json.dumps(HISTORIES)
        whole, home, codes, scores = run(PUSH, hub, tmp_path / "home", str(tmp_path), asked, tests)
        assert home == whole
        assert hub.files("my-org/both") == read(tmp_path / "model")
        again = dict(hub.files("my-org/again"))
        again.pop("README.md")
        assert again == read(tmp_path / "model")
        found = run(LOAD, hub, tmp_path / "other", asked)
    for answer, expected in zip(found, [whole, whole, codes, scores], strict=True):
        assert answer[0] == expected[0]
        for line, expected_line in zip(answer[1], expected[1], strict=True):
            assert line == pytest.approx(expected_line, abs=1e-5)
