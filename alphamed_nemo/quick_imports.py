"""What transformers has of models, imported at three quarters of its cost to a core.

transformers imports scikit-learn where it is installed, and with it SciPy's statistics and pandas, for a decoding
method that nothing here uses. It asks once whether scikit-learn is there, and keeps the answer.
"""

from __future__ import annotations

import sys

from transformers.utils.import_utils import is_sklearn_available

if "sklearn" not in sys.modules:
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # "not installed", as importlib.util.find_spec sees it
    is_sklearn_available()
    del sys.modules["sklearn"]  # a user's own code may import it

from transformers import AutoTokenizer  # noqa: E402

__all__ = ["AutoTokenizer"]
