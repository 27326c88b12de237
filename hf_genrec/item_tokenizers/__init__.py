"""Item vectors -> codes. Every file here travels with a saved item tokenizer, this one excepted.

Importing this package makes each kind (a `modeling_<kind>.py` here) known to the Auto classes.
"""

from importlib import import_module
from pathlib import Path

for _path in sorted(Path(__file__).parent.glob("modeling_*.py")):
    import_module(f"{__name__}.{_path.stem}")
