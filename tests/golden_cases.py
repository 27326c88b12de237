"""
Runs recorded cases of published code through the library and prints the worst gap of each output:

    python tests/golden_cases.py tests/golden
    python tests/golden_cases.py FOLDER...      # every folder below that holds a case.json

A test file whose name ends in `_golden.py` says what is compared: its `golden_gaps(folder, facts)` gives the gap by
output, or `None` for a case of another method. Ends with 1 if a case is nobody's.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def comparisons() -> dict[str, Callable]:
    """`golden_gaps` of each test file that has one, by the file's name."""
    sys.path.insert(0, str(HERE))
    found = {}
    for path in sorted(HERE.rglob("test_*_golden.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        found[path.stem.removeprefix("test_").removesuffix("_golden")] = module.golden_gaps
    return found


def main(folders: list[str]) -> int:
    compare, worst, nobodys = comparisons(), {}, []
    for case in sorted(path for folder in folders for path in Path(folder).rglob("case.json")):
        facts = json.loads(case.read_text(encoding="utf-8"))
        for name, gaps_of in compare.items():
            gaps = gaps_of(case.parent, facts)
            if gaps is not None:
                print(f"{name:10s} {case.parent.name:32s} worst gap {max(gaps.values()):.1e}")
                for output, gap in gaps.items():
                    worst[name, output] = max(gap, worst.get((name, output), 0.0))
                break
        else:
            nobodys.append(case.parent)
            print(f"{'':10s} {case.parent.name:32s} no method of the library has this case")
    for (name, output), gap in sorted(worst.items()):
        print(f"{name:10s} {output:45s} {gap:.1e}")
    return 1 if nobodys or not worst else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    sys.exit(main(parser.parse_args().folders))
