"""After a refit: each server's log-probs of a few given tokens are the policy's, up to rounding."""

from __future__ import annotations

import logging
import math
import random

from alphamed_nemo.config import Config
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.policy.packing import TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.sensitivity import sensitivity
from alphamed_nemo.rollout.check import other_weights, rms, served_difference, tolerance
from alphamed_nemo.rollout.client import RolloutClient
from alphamed_nemo.rollout.connection import Connection, Lost, RolloutLost
from alphamed_nemo.rollout.pool import RolloutPool
from alphamed_nemo.rollout.receivers import Receivers

TOKENS = 64  # of one sequence, drawn at random: unlikely tokens, whose log-probs every weight moves

log = logging.getLogger(__name__)


class RefitCheck:
    """Compares policy and servers after a refit. One forward pass of 128 tokens, and one short request an engine.

    What rounding explains is measured on the policy itself: three forward passes more, before the first comparison and
    again before one is called a fault, since training changes it.

    Args:
        cfg: the run; its types say how coarsely the two sides round.
        policy, exchange: on every rank.
        pool: of the servers, on rank 0.
    """

    def __init__(self, cfg: Config, policy: MegatronPolicy, exchange: Exchange, pool: RolloutPool | None) -> None:
        self.policy, self.exchange, self.pool = policy, exchange, pool
        self.worst: RolloutClient | None = None  # rank 0: the server that was furthest from the policy
        self.rounding = coarsest(cfg)
        draw = random.Random(0)
        length = min(TOKENS, cfg.model.max_length - 1)  # the request samples one more
        self.ids = [draw.randrange(policy.hf_config.vocab_size) for _ in range(length)]
        (self.batch,) = pack([TrainSequence(self.ids[:1], self.ids[1:])], 128)
        self.limit: float | None = None  # nats, as last measured

    def compare(self, version: int) -> Lost | None:
        """That all servers were lost meanwhile; None where those that are left serve the policy's weights. Collective.

        Args:
            version: of these weights.

        Raises:
            RolloutError: one holds other weights under that version.
        """
        own = self.policy.logprobs([self.batch], 1.0)[0][self.batch.mask].tolist()
        found = self.exchange.from_rank0(lambda: self._served(own, version))
        if isinstance(found, Lost):
            return found
        first = self.limit is None
        if self.limit is None or not found <= self.limit:
            # Rank 0's, so that all ranks come to one conclusion.
            nats = rms(sensitivity(self.policy, self.batch).tolist())
            self.limit = self.exchange.from_rank0(lambda: tolerance(self.rounding, nats, own))
        limit = self.limit
        if not found <= limit:
            self.exchange.from_rank0(lambda: self._refuse(found, limit))
        level = logging.INFO if first and self.pool is not None else logging.DEBUG
        text = "servers and policy differ by %.2g nats in the log-probs of given tokens (limit %.2g)"
        log.log(level, text, found, limit)
        return None

    def _served(self, own: list[float], version: int) -> float | Lost:
        """The largest difference of any server that is left."""
        assert self.pool is not None, "rank 0 has the servers"
        clients = {client.connection: client for client in self.pool.serving}

        def differs_by(connection: Connection) -> float:
            found = served_difference(clients[connection], self.ids, own)
            if (serving := clients[connection].weight_version()) != version:
                raise RolloutLost(f"it reports weight version {serving} after a refit to {version}")
            return found

        try:
            found = Receivers(list(clients)).each(differs_by)
        except RolloutLost as error:
            return Lost(str(error))
        worst = max(found, key=lambda connection: (math.isnan(found[connection]), found[connection]))
        self.worst = clients[worst]
        return found[worst]

    def _refuse(self, found: float, limit: float) -> None:
        assert self.worst is not None, "rank 0 has asked the servers"
        raise other_weights(self.worst, found, limit)


def coarsest(cfg: Config) -> str:
    """The type, of those that policy and server compute in, that rounds most."""
    if cfg.model.fp8 or cfg.rollout.quantization:
        return "fp8"
    return "float32" if (cfg.model.dtype, cfg.rollout.dtype) == ("float32", "float32") else "bfloat16"
