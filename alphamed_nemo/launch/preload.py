"""Imports what ranks run, in the fork server that they come from (ranks.py names it).

The garbage collector would take a fifth of these imports' time, for objects that stay. And in every rank it would write
into the header of each of them, and so copy 0.1 GB of the memory that ranks share: it passes them over for good.
"""

from __future__ import annotations

import gc
import importlib
import os

gc.disable()
importlib.import_module("alphamed_nemo.quick_imports")  # first: see there
importlib.import_module(os.environ["ALPHAMED_RANK_MODULE"])
gc.freeze()
gc.enable()
