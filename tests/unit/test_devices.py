"""What is said of GPUs without torch is what torch says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alphamed_nemo import devices


def test_it_agrees_with_torch() -> None:
    assert devices.cuda_is_available() is torch.cuda.is_available()
    if torch.version.cuda is None:
        assert not devices._built_for_cuda()


@pytest.mark.parametrize(
    ("line", "built"),
    [
        ("cuda: Optional[str] = None", False),
        ("cuda: Optional[str] = '13.0'", True),
        ('cuda = "12.8"', True),
        ("debug = False", False),
    ],
)
def test_torch_is_built_for_cuda_where_its_version_names_one(
    line: str, built: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version.py").write_text(f"from typing import Optional\n{line}\nhip: Optional[str] = None\n")
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: found)
    assert devices._built_for_cuda() is built


def test_without_a_driver_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DRIVER", "no-such-library.so")
    devices.device_count.cache_clear()
    try:
        assert devices.device_count() == 0
    finally:
        devices.device_count.cache_clear()
