"""A Hugging Face folder → a Megatron checkpoint (weights alone), checked against transformers' log-probs.

python recipes/convert_from_hf.py model.path=<folder> run.name=my_run  # → runs/my_run/checkpoints/step_0

Any layout reads any checkpoint, so one process writes it: `parallel` is not asked.
"""

from __future__ import annotations

import dataclasses
import logging

from alphamed_nemo.config import Config, ParallelConfig
from alphamed_nemo.export.convert import convert_from_hf
from alphamed_nemo.launch.checks import check_model_folder
from alphamed_nemo.launch.recipe import recipe
from alphamed_nemo.run_folder import RunFolder

log = logging.getLogger(__name__)


@recipe("convert_from_hf", on_gpus=None)
def main(cfg: Config) -> None:
    check_model_folder(cfg.model.path, "model.path")
    conversion = convert_from_hf(dataclasses.replace(cfg, parallel=ParallelConfig()), RunFolder.of(cfg).checkpoints)
    log.info("%s: log-probs within %.2g", conversion.folder, conversion.difference)


if __name__ == "__main__":
    main()
