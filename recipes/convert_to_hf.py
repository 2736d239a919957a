"""A checkpoint of any layout → a Hugging Face release folder, checked against the checkpoint's own logits.

python recipes/convert_to_hf.py run.name=my_run  # the run's newest checkpoint → <run>/hf
python recipes/convert_to_hf.py export.checkpoint=<folder> export.out=<folder> export.dtype=bfloat16

One process, no GPU, whatever layout wrote the checkpoint. Weights go from it to the files a layer at a time, and so do
the two forward passes that are compared: memory holds about two layers or two copies of the largest tensor, never the
model.

Model card and provenance.json come from the run's own config.yaml, its question files and its evaluations; no setting
given here changes what they say of the training. A checkpoint outside of a run needs model.path=<base>.
"""

from __future__ import annotations

import logging

from alphamed_nemo.config import Config
from alphamed_nemo.export.convert import convert_to_hf
from alphamed_nemo.launch.recipe import recipe

log = logging.getLogger(__name__)


@recipe("convert_to_hf")
def main(cfg: Config) -> None:
    convert_to_hf(cfg)


if __name__ == "__main__":
    main()
