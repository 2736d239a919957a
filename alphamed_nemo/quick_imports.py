"""What transformers has of models, imported at two thirds of its cost to a core.

transformers imports scikit-learn where it is installed, and with it SciPy's statistics and pandas, for a decoding
method that nothing here uses. It asks once whether scikit-learn is there, and keeps the answer. And the garbage
collector would look for what can be freed among objects that stay.
"""

from __future__ import annotations

import gc
import sys

collects = gc.isenabled()
gc.disable()

from transformers.utils.import_utils import is_sklearn_available  # noqa: E402

if "sklearn" not in sys.modules:
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # "not installed", as importlib.util.find_spec sees it
    is_sklearn_available()
    del sys.modules["sklearn"]  # a user's own code may import it

from transformers import AutoTokenizer  # noqa: E402

if collects:
    gc.enable()

__all__ = ["AutoTokenizer"]
