"""What only a GPU can show, on one bare H100 or H200.

    python -m tests.gpu                       # every section, in order; the table also goes to gpu-results.md
    python -m tests.gpu transformer_engine    # some of them
    python -m tests.gpu --dry                 # the same code on a CPU at tiny sizes; no number in it counts

Needs torch, Megatron-Core, transformers and msgspec, and Transformer Engine where it could be built; neither pytest nor
vLLM. Each section runs in a process of its own, since what fails on a GPU leaves the process unusable, and is killed at
its time limit. A row is printed and written as soon as it is measured. The exit status is 1 if a section failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.gpu.bench import SECTIONS, Bench, run


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description="Measures on one GPU.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--dry", action="store_true", help="on a CPU, at tiny sizes")
    parser.add_argument("--out", type=Path, default=Path("gpu-results.md"))
    options = parser.parse_args(arguments)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    # A process that has touched CUDA cannot be forked; without CUDA a fork saves the imports.
    context = multiprocessing.get_context("forkserver" if options.dry else "spawn")
    context.set_forkserver_preload(sorted({section.module for section in SECTIONS.values()}))
    options.out.write_text("| section | measured | |\n| --- | --- | --- |\n")
    failed = []
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        for name in options.sections or SECTIONS:
            bench, section = Bench(name, options.dry, options.out, Path(folder, name)), SECTIONS[name]
            if options.dry:  # a CPU may be busy
                section = replace(section, limit_s=10 * section.limit_s)
            if not run(context, bench, section):
                failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all sections passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
