"""A checkpoint of any layout → a Hugging Face release folder, proven to be the same model.

python recipes/convert_to_hf.py run.name=my_run  # the run's newest checkpoint → <run>/hf
python recipes/convert_to_hf.py export.checkpoint=<folder> export.out=<folder> export.dtype=bfloat16
python recipes/convert_to_hf.py run.name=my_run export.adapter=true  # of a run with LoRA: its PEFT adapter

One process, no GPU, whatever layout wrote the checkpoint. Weights go from it to the files a layer at a time; then every
tensor is compared bit for bit, and the logits in float64. Memory holds about two layers or three copies of the largest
tensor, never the model. A refused folder stays beside the release, under a temporary name, to be looked at.

Model card and provenance.json come from the run's own config.yaml, its question files and its evaluations; no setting
given here changes what they say of the training. A checkpoint outside of a run needs model.path=<base>.
"""

from __future__ import annotations

import logging

from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config

log = logging.getLogger(__name__)


@recipe("convert_to_hf")
def main(cfg: Config) -> None:
    from alphamed_nemo.export import convert  # torch and Megatron, which take seconds: once the settings are right

    (convert.convert_to_adapter if cfg.export.adapter else convert.convert_to_hf)(cfg)


if __name__ == "__main__":
    main()
