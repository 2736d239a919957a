"""A Hugging Face folder → a Megatron checkpoint (weights alone), proven to be the same model.

python recipes/convert_from_hf.py model.path=<folder> run.name=my_run  # → runs/my_run/checkpoints/step_0

Any layout reads any checkpoint, so one process writes it: `parallel` is not asked.
"""

from __future__ import annotations

import logging

from alphamed_nemo.cli.preflight import check_model_folder
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.cli.run_start import owned
from alphamed_nemo.config import Config

log = logging.getLogger(__name__)


@recipe("convert_from_hf", on_gpus=None)
def main(cfg: Config) -> None:
    check_model_folder(cfg.model.path, "model.path")
    from alphamed_nemo.export.convert import (
        convert_from_hf,  # torch and Megatron, which take seconds: once the settings are right
    )

    with owned(cfg, "convert_from_hf") as folder:
        conversion = convert_from_hf(cfg, folder.checkpoints)
    log.info("%s: %s", conversion.folder, conversion.proof)


if __name__ == "__main__":
    main()
