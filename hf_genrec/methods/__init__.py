"""A folder per method; what the rest of the library asks of it stands in its `method.py`.

`hf_genrec.methods()` names them: the package is callable.
"""

import sys
from types import ModuleType

from hf_genrec.method import methods


class _Methods(ModuleType):
    def __call__(self) -> list[str]:
        """The methods there are."""
        return methods()


sys.modules[__name__].__class__ = _Methods
