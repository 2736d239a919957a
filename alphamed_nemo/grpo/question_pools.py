"""Questions in three pools by how they were last answered: what stays solved is asked less, what is not comes back.

As the buffer of prime-rl (https://github.com/PrimeIntellect-ai/prime-rl, `orchestrator/buffer.py`): a fixed share of a
batch is easy (every response was right) and another hard (none was), the rest is normal. Here each pool is a queue, so
that all its questions are asked equally often, and the order follows from the seed and the answers alone.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import fmean

from alphamed_nemo.data.question import Question
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.rewards.score import CORRECT

EASY, NORMAL, HARD = "easy", "normal", "hard"
POOLS = (NORMAL, HARD, EASY)  # in the order in which they stand in for one that is too small


class QuestionPools:
    """An order of questions like `QuestionStream`; every question is normal until it was answered.

    Args:
        questions: the training set.
        seed: of the first order, and of the order within each batch.
        shares: pool → share of a batch that is drawn from it; the rest, and what a pool lacks, is normal.

    Raises:
        ValueError: no questions.
    """

    def __init__(self, questions: list[Question], seed: int, shares: Mapping[str, float]) -> None:
        if not questions:
            raise ValueError("grpo.questions holds no question; run prepare_data and label_difficulty first")
        self.questions = {question.id: question for question in questions}
        self.seed = seed
        self.shares = shares
        self.asked = 0
        order = sorted(self.questions)
        random.Random(f"{seed}/pools").shuffle(order)
        self.pools: dict[str, deque[str]] = {pool: deque() for pool in POOLS} | {NORMAL: deque(order)}

    def take(self, count: int) -> list[Question]:
        """The next `count` questions; each is out of its pool until `judge` or `put_back`.

        Raises:
            ValueError: so many are not there.
        """
        if count > sum(map(len, self.pools.values())):
            raise ValueError(f"grpo.questions_per_step: {count} questions are not there; lower it")
        taken = [
            self.pools[pool].popleft()
            for pool, share in self.shares.items()
            for _ in range(min(int(count * share), len(self.pools[pool])))
        ]
        for pool in POOLS:
            while len(taken) < count and self.pools[pool]:
                taken.append(self.pools[pool].popleft())
        # Mini-batches are cut from a batch in its order: each gets questions of every pool.
        random.Random(f"{self.seed}/{self.asked}").shuffle(taken)
        self.asked += count
        return [self.questions[name] for name in taken]

    def judge(self, groups: Iterable[Group]) -> None:
        """Puts each question at the end of the pool of its answers."""
        for group in groups:
            right = fmean(score.reason == CORRECT for score in group.scores)
            pool = HARD if right == 0 else EASY if right == 1 else NORMAL
            self.pools[pool].append(group.question.id)

    def put_back(self, questions: list[Question]) -> None:
        """Returns questions that were judged and are not trained on; they come first in the next `take`."""
        names = {question.id for question in questions}
        for pool, queue in self.pools.items():
            self.pools[pool] = deque(name for name in queue if name not in names)
        self.pools[NORMAL].extendleft(question.id for question in reversed(questions))
        self.asked -= len(questions)

    def state(self) -> dict:
        """What a checkpoint keeps; `passes` and `pools` are for the metrics."""
        pools = {pool: list(queue) for pool, queue in self.pools.items()}
        shares = {pool: len(queue) / len(self.questions) for pool, queue in pools.items()}
        return {"asked": self.asked, "queues": pools, "passes": self.asked / len(self.questions), "pools": shares}

    def restore(self, state: dict, drop_unknown: bool = False) -> None:
        """Goes on from `state()`. Questions that it does not name are new, and normal.

        Args:
            state: of pools over the same questions.
            drop_unknown: the questions may be others: those that the training set no longer has are left out.

        Raises:
            ValueError: the state names questions that the training set no longer has.
        """
        named = [name for queue in state["queues"].values() for name in queue]
        unknown = [name for name in named if name not in self.questions]
        if unknown and not drop_unknown:
            raise ValueError(
                f"the checkpoint's pools name {len(unknown)} questions that the training file lacks, {unknown[0]!r} "
                "first; resume with the file that the run was started with"
            )
        self.asked = state["asked"]
        self.pools = {pool: deque(name for name in state["queues"][pool] if name in self.questions) for pool in POOLS}
        self.pools[NORMAL].extend(sorted(set(self.questions) - set(named)))
