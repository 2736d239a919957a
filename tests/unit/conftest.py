"""What holds for all unit tests, and what several of them share."""

import os

import pytest

# Before torch is imported. Tensors are tiny here: several threads gain nothing, and on a busy machine each operation
# waits until the system has run all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Writes rows as `<repository>/<subset>/<split>-….parquet` and returns the repository's path."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(rows, split, subset="", features=None):
        repository = tmp_path / "repository"
        folder = repository / (subset or "data")
        folder.mkdir(parents=True)
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
        if subset:
            files = f"  data_files:\n  - split: {split}\n    path: {subset}/*\n"
            (repository / "README.md").write_text(f"---\nconfigs:\n- config_name: {subset}\n{files}---\n")
        return str(repository)

    return write
