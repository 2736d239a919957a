"""After a refit: the server's log-probs of a few given tokens are the policy's, up to rounding."""

from __future__ import annotations

import logging
import random

from alphamed_nemo.config import Config
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.policy.packing import TrainSequence, pack
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.sensitivity import sensitivity
from alphamed_nemo.rollout.check import other_weights, rms, served_difference, tolerance
from alphamed_nemo.rollout.client import RolloutClient
from alphamed_nemo.rollout.connection import Lost, RolloutLost

TOKENS = 64  # of one sequence, drawn at random: unlikely tokens, whose log-probs every weight moves

log = logging.getLogger(__name__)


class RefitCheck:
    """Compares policy and server after a refit. One forward pass of 128 tokens, and one short request an engine.

    What rounding explains is measured on the policy itself: three forward passes more, before the first comparison and
    again before one is called a fault, since training changes it.

    Args:
        cfg: the run; its types say how coarsely the two sides round.
        policy, exchange: on every rank.
        client: of the server, on rank 0.
    """

    def __init__(self, cfg: Config, policy: MegatronPolicy, exchange: Exchange, client: RolloutClient | None) -> None:
        self.policy, self.exchange, self.client = policy, exchange, client
        self.rounding = coarsest(cfg)
        draw = random.Random(0)
        length = min(TOKENS, cfg.model.max_length - 1)  # the request samples one more
        self.ids = [draw.randrange(policy.hf_config.vocab_size) for _ in range(length)]
        (self.batch,) = pack([TrainSequence(self.ids[:1], self.ids[1:])], 128)
        self.limit: float | None = None  # nats, as last measured

    def compare(self, version: int) -> Lost | None:
        """That the server was lost meanwhile; None where it serves the policy's weights. Collective.

        Args:
            version: of these weights.

        Raises:
            RolloutError: it holds other weights under that version.
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
        level = logging.INFO if first and self.client is not None else logging.DEBUG
        text = "server and policy differ by %.2g nats in the log-probs of given tokens (limit %.2g)"
        log.log(level, text, found, limit)
        return None

    def _served(self, own: list[float], version: int) -> float | Lost:
        assert self.client is not None, "rank 0 has the server"
        try:
            found = served_difference(self.client, self.ids, own)
            serving = self.client.weight_version()
        except RolloutLost as error:
            return Lost(str(error))
        if serving != version:
            text = f"it reports weight version {serving} after a refit to {version}: a new one was started in its place"
            return Lost(text)
        return found

    def _refuse(self, found: float, limit: float) -> None:
        assert self.client is not None, "rank 0 has the server"
        raise other_weights(self.client, found, limit)


def coarsest(cfg: Config) -> str:
    """The type, of those that policy and server compute in, that rounds most."""
    if cfg.model.fp8 or cfg.rollout.quantization:
        return "fp8"
    return "float32" if (cfg.model.dtype, cfg.rollout.dtype) == ("float32", "float32") else "bfloat16"
