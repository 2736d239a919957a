"""On carriers that load as they receive, too, only a whole and right update is ever served; NCCL and CUDA IPC are shown
without CUDA (refit_carriers.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.refit_carriers import BROKEN_AT, CARRIERS

CLOSE = 1e-4  # nats; one stale weight moves log-probs by more than 0.05
SAYS = {
    "missing": " missing: model.",
    "shape": f"1 of another shape: {BROKEN_AT} ",
    "dtype": f"1 of another dtype: {BROKEN_AT} float64, expected float32",
    "duplicate": "1 duplicate: model.layers.1.self_attn.q_proj.weight",
    "foreign": f"1 unexpected: {BROKEN_AT.replace('k_proj', 'kv_proj')}",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("carriers")
    output = folder / "found.json"
    command = [sys.executable, "-m", "tests.integration.refit_carriers", str(folder), str(output)]
    ended = subprocess.run(command, env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"}, capture_output=True, text=True)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]
    return json.loads(Path(output).read_text())


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    ("announced", "says"), [("one", "missing: "), ("none", "missing: "), ("turned", "another shape")]
)
def test_an_update_announced_as_less_or_other_than_is_served_changes_nothing(found, carrier, announced, says):
    assert says in found[carrier]["refused"][f"announced {announced}"]
    assert found[carrier]["after"][f"announced {announced}"] == 0.0


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("kind", list(SAYS))
def test_a_part_of_an_update_is_never_served_and_the_next_refit_is_exact(found, carrier, kind):
    """The program asserts that the server stays paused in between."""
    assert SAYS[kind] in found[carrier]["refused"][kind]
    assert found[carrier]["after"][kind] < CLOSE


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("kind", list(SAYS))
def test_the_engine_refuses_what_the_trainer_did_not_check(found, carrier, kind):
    assert SAYS[kind] in found[carrier]["refused"][f"{kind}, by the engine"]
    assert found[carrier]["after"][f"{kind}, by the engine"] == 0.0


@pytest.mark.parametrize("carrier", CARRIERS)
def test_finishing_an_update_that_carried_nothing_is_an_error(found, carrier):
    assert "the weights have not changed" in found[carrier]["past the trainer"]
