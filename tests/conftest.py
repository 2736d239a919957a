"""What every test starts from."""

import os

os.environ.pop("ALPHAMED_RUNS", None)  # the default of run.dir: no test writes to a developer's own runs
