"""Imported before what transformers has of models: its import then costs a core a quarter less time.

transformers imports scikit-learn where it is installed, and with it SciPy's statistics and pandas, for a decoding
method that nothing here uses. It asks once whether scikit-learn is there, and keeps the answer.
"""

from __future__ import annotations

import sys

from transformers.utils import is_sklearn_available

if "sklearn" not in sys.modules:
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # "not installed", as importlib.util.find_spec sees it
    is_sklearn_available()
    del sys.modules["sklearn"]  # a user's own code may import it
