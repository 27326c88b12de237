"""Pip constraints that hold what a user needs at the oldest version that setup.cfg allows; not what tests need."""

import configparser
import re
from pathlib import Path

setup = configparser.ConfigParser()
setup.read(Path(__file__).parents[1] / "setup.cfg")
extras = setup["options.extras_require"]
groups = [setup["options"]["install_requires"], extras["data"], extras["tokenize"], extras["train"]]
for line in sorted({line.strip() for group in groups for line in group.splitlines()}):
    bounded = re.match(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", line)
    if bounded:
        print(f"{bounded[1]}=={bounded[2]}")
