"""The run folder → an offline page, one of all its responses, and summary.json; or several runs side by side.

python recipes/report.py run.name=my_run
python recipes/report.py run.name=comparison 'report.compare=[runs/a,runs/b]'
"""

from __future__ import annotations

import logging
from pathlib import Path

from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.report.html import build_comparison, build_report
from alphamed_nemo.report.summary import write_summary

log = logging.getLogger(__name__)


def report(cfg: Config, seconds: dict[str, float] | None = None) -> Path:
    """Writes the page and, for a single run, summary.json. `seconds` by stage go into the summary."""
    folder = RunFolder.of(cfg)
    if cfg.report.compare:
        return build_comparison([Path(run) for run in cfg.report.compare], folder.report)
    if not folder.root.is_dir():
        raise ValueError(f"run.name: no run folder {folder.root}; name a run that exists, or set run.dir")
    write_summary(folder.root, seconds)
    return build_report(folder.root, cfg.report.responses_mb)


@recipe("report", on_gpus=None)
def main(cfg: Config) -> None:
    log.info("report: %s", report(cfg))


if __name__ == "__main__":
    main()
