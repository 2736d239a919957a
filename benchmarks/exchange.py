"""What one driver takes of a large run: tokens from the servers' answers to the shares of the data-parallel ranks.

The servers are stand-ins in a process of their own, which send what vLLM with our plugin sends for so many tokens, at
once or at the rate of a node. At once, the driver's own processor time is the limit, and it is that which is measured.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import random
import time
from array import array
from functools import cache
from multiprocessing.connection import Connection
from typing import Any, ClassVar

import msgspec

from alphamed_nemo.config import Config
from alphamed_nemo.data.question import Question
from alphamed_nemo.families import FAMILIES, Dimensions
from alphamed_nemo.grpo.advantages import advantages
from alphamed_nemo.grpo.collect import Collected, Collector
from alphamed_nemo.grpo.group import Group
from alphamed_nemo.grpo.question_stream import QuestionStream
from alphamed_nemo.grpo.share import shares
from alphamed_nemo.policy.packing import lay_out
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rewards.score import Score
from alphamed_nemo.rollout.completion import FLOATS, IDS, Choice, Completion, TokenLogprobs
from alphamed_nemo.rollout.connection import COMPACT, connect
from alphamed_nemo.rollout.pool import RolloutPool
from alphamed_nemo.rollout.types import Rollout
from benchmarks.measure import Row

SERVERS, TOKENS_A_SECOND = 16, 90_000  # of a run of 128 GPUs, by docs/plan.md
QUESTIONS, SAMPLES = 256, 8
PROMPT, RESPONSE = 250, 600  # tokens
DATA_RANKS = 16
VOCABULARY = 128_256
MODEL = Dimensions(FAMILIES["llama"], 4096, 14336, 32, 32, 8, 128, VOCABULARY, tied=False)  # Llama 3.1 8B
ROUNDS = 8  # batches in a row at the nodes' rate
# As predicted by `./run plan experiment=grpo_8b plan.gpu=h100 cluster=8b_128`: seconds of a step and of a token, and
# mean tokens of a response.
STEP_S, TOKEN_S, MEAN = 13.4, 0.004, 800


def measure_exchange(repeats: int) -> list[Row]:
    """A batch of the 8B preset's shape, its prompts sent and its answers read, then divided."""
    return [*_at_once(repeats), *_at_rate(repeats), *_planned()]


def _at_once(repeats: int) -> list[Row]:
    rng = random.Random(0)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(PROMPT)] for _ in range(QUESTIONS)]
    taken, sharing, laying_out, size = [], [], [], []
    with StandIns(rate=0) as cfg:
        for repeat in range(repeats + 1):
            sampled, seconds, _ = _sampled(cfg, prompts)
            batch = graded(sampled)
            started = time.process_time()
            parcels = [
                pickle.dumps(share, pickle.HIGHEST_PROTOCOL) for share in shares(batch, cfg, MODEL, share_prompts=False)
            ]
            shared = time.process_time() - started
            started = time.process_time()
            (minibatch,) = pickle.loads(parcels[0]).minibatches
            _ = [lay_out(families, minibatch.length) for families in minibatch.packs]
            if repeat:  # the first warms up
                taken.append(_tokens(sampled) / seconds)
                sharing.append(shared)
                laying_out.append(time.process_time() - started)
                size.append(max(map(len, parcels)) / 1e6)
    batch_of = f"{QUESTIONS} × {SAMPLES} responses of {RESPONSE} tokens"
    asked = f"{SERVERS * TOKENS_A_SECOND:,} of {SERVERS} servers"
    return [
        Row("driver: tokens that it takes in a second of its processor", "tokens/s", taken, asked, batch_of),
        Row("driver: division among data-parallel ranks", "s of its processor", sharing, "", batch_of),
        Row(f"received by each of {DATA_RANKS} data-parallel ranks", "MB", size, "", batch_of),
        Row("a rank's own share into micro-batches", "s of its processor", laying_out, "", batch_of),
    ]


def _at_rate(repeats: int) -> list[Row]:
    """Every server busy from the first request to the last."""
    rng = random.Random(0)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(PROMPT)] for _ in range(ROUNDS * QUESTIONS)]
    taken, busy = [], []
    with StandIns(rate=TOKENS_A_SECOND) as cfg:
        for _ in range(repeats):
            sampled, seconds, wall = _sampled(cfg, prompts)
            taken.append(100 * _tokens(sampled) / (SERVERS * TOKENS_A_SECOND) / wall)
            busy.append(100 * seconds / wall)
    load = f"{SERVERS} servers of {TOKENS_A_SECOND:,} tokens/s each, {ROUNDS} batches"
    return [
        Row("driver: taken of what the servers can send", "%", taken, "at least 95", load),
        Row("driver: its processor meanwhile", "% of one core", busy, "", load),
    ]


def _planned() -> list[Row]:
    """One step as rank 0 sees it: each response takes the time of its tokens, and what is left is rank 0's."""
    questions = [Question(f"q{i}", "own", f"Question {i}? " * 20, ("one", "two"), "A") for i in range(QUESTIONS)]
    with StandIns(token_s=TOKEN_S) as cfg:
        cfg.grpo.questions_per_step, cfg.grpo.samples_per_question = QUESTIONS, SAMPLES
        pool = RolloutPool(connect(cfg.rollout), cfg.rollout, VOCABULARY)
        rewards = RewardClient(cfg.rollout.urls[0], cfg.reward)
        collector = Collector(cfg, QuestionStream(questions, 0), Characters(), pool, rewards)
        wall, started = time.perf_counter(), time.process_time()
        batch = collector.collect(0)
        parcels = [
            pickle.dumps(share, pickle.HIGHEST_PROTOCOL) for share in shares(batch, cfg, MODEL, share_prompts=False)
        ]
        seconds, wall = time.process_time() - started, time.perf_counter() - wall
        pool.close()
    longest = TOKEN_S * max(len(rollout.response_ids) for group in batch.groups for rollout in group.rollouts)
    step = f"{QUESTIONS} × {SAMPLES} responses of {MEAN} tokens (mean), {STEP_S:g} s as planned for 128 GPUs"
    sent = sum(len(parcels[rank % DATA_RANKS]) for rank in range(128)) / 1e6
    return [
        Row(
            "rank 0 in a planned step: beyond the longest response",
            "% of it",
            [100 * (wall - longest) / STEP_S],
            "at most 5",
            step,
        ),
        Row("rank 0 in a planned step: its processor", "s", [seconds], "", step),
        Row("rank 0 in a planned step: sent to 128 ranks", "MB", [sent], "", step),
    ]


class Characters:
    """A tokenizer: a token for each character."""

    chat_template = eos_token = None
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(character) for character in text] for text in texts]}


def _sampled(cfg: Config, prompts: list[list[int]]) -> tuple[list[list[Rollout]], float, float]:
    """What the servers answered, and the driver's processor and wall seconds."""
    pool = RolloutPool(connect(cfg.rollout), cfg.rollout, VOCABULARY)
    wall, started = time.perf_counter(), time.process_time()
    sampled = pool.generate(prompts, SAMPLES, max_new_tokens=RESPONSE, seed=[*range(len(prompts))])
    seconds, wall = time.process_time() - started, time.perf_counter() - wall
    pool.close()
    return sampled, seconds, wall


def _tokens(sampled: list[list[Rollout]]) -> int:
    return sum(len(rollout.response_ids) for group in sampled for rollout in group)


def graded(sampled: list[list[Rollout]]) -> Collected:
    """As if every other response were right."""
    cfg, question = Config().grpo, Question("q", "own", "stem", ("one", "two"), "A")
    groups = []
    for rollouts in sampled:
        rewards = [float(i % 2) for i in range(len(rollouts))]
        scores = [Score(reward, "A", "correct" if reward else "wrong") for reward in rewards]
        weights = [1.0] * len(rollouts)
        groups.append(Group(question, rollouts, scores, rewards, advantages(rewards, cfg), weights))
    return Collected(groups, len(groups), len(groups), 1, {})


class StandIns:
    """Servers in a process of their own, while in the context.

    Args:
        rate: tokens that each sends in a second; 0: at once.
        token_s: seconds that each token of a response takes, beside any others; its length is then drawn.
    """

    def __init__(self, rate: int = 0, token_s: float = 0.0) -> None:
        context = multiprocessing.get_context("spawn")
        self.ours, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, rate, token_s), daemon=True)

    def __enter__(self) -> Config:
        """A run that samples from them."""
        self.process.start()
        cfg = Config()
        cfg.rollout.engines, cfg.parallel.data = 8, DATA_RANKS
        cfg.rollout.urls = [f"http://127.0.0.1:{port}" for port in self.ours.recv()]
        return cfg

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()


RIGHT, WRONG = Score(1.0, "A", "correct"), Score(0.0, "B", "wrong")


class Asked(msgspec.Struct):
    """Of a server: a request for samples, or for scores."""

    prompt: list[list[int]] = []
    n: int = 0
    max_tokens: int = 0
    seed: int = 0
    items: list[Any] = []


def serve(parent: Connection, rate: int, token_s: float) -> None:
    """The stand-ins; tells the parent their ports."""

    async def main() -> None:
        servers = [
            await asyncio.start_server(StandIn(rate, token_s).answer, "127.0.0.1", 0, limit=2**24, backlog=1024)
            for _ in range(SERVERS)
        ]
        parent.send([server.sockets[0].getsockname()[1] for server in servers])
        await asyncio.gather(*(server.serve_forever() for server in servers))

    asyncio.run(main())


class StandIn:
    """One server; with a rate it sends one answer after the other."""

    def __init__(self, rate: int, token_s: float) -> None:
        self.rate, self.token_s = rate, token_s
        self.free_at = 0.0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:  # the client has gone
                return writer.close()
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            body = await reader.readexactly(int(lines.get(b"content-length", 0)))
            asked = msgspec.json.decode(body or b"{}", type=Asked)
            form, said = b"application/json", b'{"weight_version": "0"}'
            if asked.items:
                scores = [(WRONG, RIGHT)[number % 2] for number in range(len(asked.items))]
                said = msgspec.json.encode({"protocol": "boxed", "scores": scores})
            elif body:
                form, said = COMPACT.encode(), await self.completion(asked)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (form, len(said)))
            writer.write(said)
            await writer.drain()

    async def completion(self, asked: Asked) -> bytes:
        """What the plugin makes of vLLM's answer (rollout/inside_vllm/compact.py), when that many tokens are due."""
        (prompt,) = asked.prompt
        lengths = [asked.max_tokens] * asked.n
        if self.token_s:
            draw = random.Random(asked.seed)
            lengths = [min(asked.max_tokens, 1 + 16 * int(draw.expovariate(16 / MEAN))) for _ in lengths]
            await asyncio.sleep(self.token_s * max(lengths))
        if self.rate:
            self.free_at = max(self.free_at, time.monotonic()) + sum(lengths) / self.rate
            await asyncio.sleep(self.free_at - time.monotonic())
        sent, choices = array(IDS, prompt).tobytes(), []
        for index, length in enumerate(lengths):
            text, ids, logprobs = sample(length)
            choices.append(Choice(index, text, sent, ids, "stop", TokenLogprobs(logprobs)))
        return msgspec.msgpack.encode(Completion(choices))


@cache
def sample(tokens: int) -> tuple[str, bytes, bytes]:
    """Text, token ids and log-probs."""
    rng = random.Random(tokens)
    words = [rng.choice((" the", " patient", " has", ".", " renal", " answer", "ing")) for _ in range(tokens)]
    ids = array(IDS, [rng.randrange(VOCABULARY) for _ in words])
    logprobs = array(FLOATS, [-rng.expovariate(3.0) for _ in words])
    return "".join(words), ids.tobytes(), logprobs.tobytes()
