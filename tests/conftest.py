"""What every test starts from."""

import os

from alphamed_nemo.processor import this_processor

os.environ.pop("ALPHAMED_RUNS", None)  # the default of run.dir: no test writes to a developer's own runs


def pytest_report_header() -> list[str]:
    """The kind of processor, on which the time of tests in bfloat16 depends."""
    processor = this_processor()
    slower = processor.bfloat16_slower
    return [f"processor: {processor}", *([f"bfloat16 takes about {slower} times as long as float32"] if slower else [])]
