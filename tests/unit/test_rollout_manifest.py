"""A refit must carry exactly the weights of the served folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alphamed_nemo.rollout.update_manifest import Arrivals, Found, Manifest, check_manifest, read_manifest

SHAPES = {"a": (2, 3), "b": (4,), "c": ()}
EXPECTED = Manifest(SHAPES, "float32")
A, B, C = (("a", (2, 3), "float32"), ("b", (4,), "float32"), ("c", (), "float32"))


def test_the_manifest_is_read_from_all_shards_without_buffers(tmp_path: Path):
    files = {
        "model-1.safetensors": {"embed.weight": torch.zeros(5, 2)},
        "model-2.safetensors": {"norm.weight": torch.zeros(2), "layer.rotary_emb.inv_freq": torch.zeros(1)},
    }
    for file, weights in files.items():
        save_file(weights, tmp_path / file, metadata={"format": "pt"})
    index = {name: file for file, weights in files.items() for name in weights}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert read_manifest(tmp_path) == Manifest({"embed.weight": (5, 2), "norm.weight": (2,)})


@pytest.mark.parametrize(("tied", "names"), [(True, {"embed.weight"}), (False, {"embed.weight", "lm_head.weight"})])
def test_a_tied_head_is_not_expected(tmp_path: Path, tied: bool, names: set[str]):
    weights = {"embed.weight": torch.zeros(5, 2), "lm_head.weight": torch.zeros(5, 2)}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    assert set(read_manifest(tmp_path).shapes) == names


def test_a_folder_without_weights_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="found neither model.safetensors nor"):
        read_manifest(tmp_path)


def test_a_complete_update_passes_in_any_order():
    check_manifest(EXPECTED, [C, A, B])


BROKEN = [
    ([A, B], "1 missing: c"),
    ([], "3 missing: a, b, c"),
    ([A, B, C, ("d", (), "float32")], "1 unexpected: d"),
    ([A, B, C, A], "1 duplicate: a"),
    ([A, A, B, C], "1 duplicate: a"),
    ([("a", (3, 2), "float32"), B, C], r"1 of another shape: a \(3, 2\), expected \(2, 3\)"),
    ([("a", (6,), "float32"), B, C], r"1 of another shape: a \(6,\), expected \(2, 3\)"),
    ([A, ("b", (4,), "bfloat16"), C], "1 of another dtype: b bfloat16, expected float32"),
]


@pytest.mark.parametrize(("found", "message"), [*BROKEN, ([("d", (), "float32")], "1 unexpected: d; 3 missing: a, b")])
def test_anything_else_is_refused_by_name(found: list[Found], message: str):
    with pytest.raises(ValueError, match=f"weights refused, of 3 expected: {message}"):
        check_manifest(EXPECTED, found)


@pytest.mark.parametrize(("found", "message"), BROKEN)
def test_weights_that_come_one_by_one_are_refused_at_the_first_that_is_wrong(found: list[Found], message: str):
    arrivals = Arrivals(EXPECTED)
    with pytest.raises(ValueError, match=message):
        for each in found:
            arrivals.take(*each)
        arrivals.finish()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_server_takes_any_one_floating_type(dtype: str):
    check_manifest(Manifest(SHAPES), [(name, shape, dtype) for name, shape in SHAPES.items()])
    with pytest.raises(ValueError, match="1 of another dtype: c int8, expected "):
        check_manifest(Manifest(SHAPES), [("a", (2, 3), dtype), ("b", (4,), dtype), ("c", (), "int8")])


@pytest.mark.parametrize("dtype", ["float64", "int8", "uint8", "bool"])
def test_a_server_takes_no_other_type(dtype: str):
    with pytest.raises(ValueError, match=f"3 of another dtype: a {dtype}, expected float32"):
        check_manifest(Manifest(SHAPES), [(name, shape, dtype) for name, shape in SHAPES.items()])


def test_a_long_list_is_shortened():
    with pytest.raises(ValueError, match="100 missing: w0, .* and 92 more"):
        check_manifest(Manifest({f"w{i}": (1,) for i in range(100)}), [])
