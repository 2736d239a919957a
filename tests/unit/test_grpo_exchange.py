import pytest
import torch.distributed as dist

from alphamed_nemo.grpo.exchange import Exchange, RemoteError
from tests.spawn import spawn


def share() -> tuple[str, str, bool, bool]:
    exchange = Exchange(data_rank=0)
    value = exchange.from_rank0(lambda: f"made by rank {dist.get_rank()}")
    error = "none"
    try:
        exchange.from_rank0(lambda: 1 / 0)
    except ZeroDivisionError as raised:
        error = type(raised).__name__
    except RemoteError as raised:
        error = str(raised)
    return value, error, exchange.any(dist.get_rank() == 1), exchange.any(False)


def test_values_errors_and_flags_reach_every_rank():
    results = spawn(share, 2)
    assert [result[0] for result in results] == ["made by rank 0"] * 2
    assert results[0][1] == "ZeroDivisionError"
    assert results[1][1] == "rank 0 failed: ZeroDivisionError: division by zero"
    assert all(result[2] is True and result[3] is False for result in results)


def dealt() -> tuple[object, str]:
    rank = dist.get_rank()
    exchange = Exchange(data_rank=rank // 2)
    share = exchange.share(lambda: [{"of": "the first", "tokens": [1, 2, 3] * 100}, "the second"])
    with pytest.raises((RemoteError, ZeroDivisionError)) as error:
        exchange.share(lambda: [1 / 0, 2])
    return share, error.type.__name__


def test_each_data_parallel_rank_gets_its_own_share():
    first, second = {"of": "the first", "tokens": [1, 2, 3] * 100}, "the second"
    results = spawn(dealt, 4)
    assert [share for share, _ in results] == [first, first, second, second]
    assert [error for _, error in results] == ["ZeroDivisionError", "RemoteError", "RemoteError", "RemoteError"]
