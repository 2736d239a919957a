"""The loss against the plain oracle: values, gradients, splits, and what it refuses."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from alphamed_nemo.config import Config, GrpoConfig
from alphamed_nemo.config.limits import check_training_values, check_values
from alphamed_nemo.grpo.aggregation import BatchTotals
from alphamed_nemo.grpo.loss import GrpoLoss
from alphamed_nemo.policy.packing import TrainSequence, pack
from tests.unit.grpo_oracle import as_pack, difference_gradient, make_responses, plain_loss

LENGTHS = [3, 1, 7, 4, 2, 5]
TOTALS = BatchTotals(tokens=22, sequences=6)
OFF_POLICY = GrpoConfig(updates_per_batch=2, clip_low=0.2, clip_high=0.28)
SETTINGS = {
    "clip": OFF_POLICY,
    "dual clip": replace(OFF_POLICY, dual_clip=1.5),
    "gspo": replace(OFF_POLICY, loss="gspo", aggregation="sequence_mean"),
    "gspo, token mean": replace(OFF_POLICY, loss="gspo"),
    "cispo": replace(OFF_POLICY, loss="cispo"),
    "cispo without a lower bound": replace(OFF_POLICY, loss="cispo", clip_low=1.0),
    "sequence mean": replace(OFF_POLICY, aggregation="sequence_mean"),
    "constant length": replace(OFF_POLICY, aggregation="constant_length", constant_length=48),
    "kl k1": replace(OFF_POLICY, kl_coef=0.3, kl_estimator="k1"),
    "kl k2": replace(OFF_POLICY, kl_coef=0.3, kl_estimator="k2"),
    "kl k3": replace(OFF_POLICY, kl_coef=0.3, kl_estimator="k3"),
    "entropy": replace(OFF_POLICY, entropy_coef=0.2),
    "tis token": replace(OFF_POLICY, correction="tis_token", correction_cap=1.2),
    "tis sequence": replace(OFF_POLICY, correction="tis_sequence", correction_cap=1.2),
    "icepop": replace(OFF_POLICY, correction="icepop", correction_low=0.7, correction_high=1.5),
    "sequence mask": replace(OFF_POLICY, correction="sequence_mask", correction_low=0.9, correction_high=1.1),
    "all at once": replace(
        OFF_POLICY,
        dual_clip=3.0,
        aggregation="sequence_mean",
        kl_coef=0.1,
        entropy_coef=0.05,
        correction="tis_token",
        kl_estimator="k2",
    ),
}


def run(responses, cfg, totals=None, **pack_options):
    """Loss, gradient at the response tokens, and metrics of one pack."""
    totals = totals or BatchTotals(sum(len(response.logprobs) for response in responses), len(responses))
    pack = as_pack(responses, **pack_options)
    logprobs = pack.logprobs.clone().requires_grad_()
    loss, metrics = GrpoLoss(cfg, totals)(logprobs, pack.entropy, pack)
    loss.backward()
    assert not logprobs.grad[~pack.mask].any(), "a token outside the responses has a gradient"
    return loss.item(), logprobs.grad[pack.mask], metrics


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_loss_equals_the_plain_computation(name, seed):
    responses = make_responses(seed, LENGTHS)
    loss, _, _ = run(responses, SETTINGS[name])
    assert loss == pytest.approx(plain_loss(responses, SETTINGS[name]), abs=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_equals_finite_differences(name):
    responses = make_responses(4, LENGTHS)
    _, gradient, _ = run(responses, SETTINGS[name])
    expected = [value for row in difference_gradient(responses, SETTINGS[name]) for value in row]
    assert gradient.tolist() == pytest.approx(expected, abs=1e-6)
    assert any(abs(value) > 1e-3 for value in expected), "the comparison would pass with nothing in it"


def test_entropy_bonus_gradient():
    responses = make_responses(5, LENGTHS)
    cfg = SETTINGS["entropy"]
    pack = as_pack(responses)
    entropy = pack.entropy.clone().requires_grad_()
    loss, _ = GrpoLoss(cfg, TOTALS)(pack.logprobs, entropy, pack)
    loss.backward()
    assert entropy.grad[pack.mask].tolist() == pytest.approx([-0.2 / sum(LENGTHS)] * sum(LENGTHS))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("cuts", [[3], [1, 2, 5], [1, 2, 3, 4, 5]])
def test_any_split_into_microbatches_sums_to_the_whole(name, cuts):
    responses = make_responses(6, LENGTHS)
    cfg = SETTINGS[name]
    whole_loss, whole_gradient, whole_metrics = run(responses, cfg, TOTALS)
    bounds = [0, *cuts, len(responses)]
    parts = [
        run(responses[a:b], cfg, TOTALS, prompt=1 + a, padding=b) for a, b in zip(bounds, bounds[1:], strict=False)
    ]
    assert sum(loss for loss, _, _ in parts) == pytest.approx(whole_loss, abs=1e-12)
    torch.testing.assert_close(torch.cat([gradient for _, gradient, _ in parts]), whole_gradient, rtol=0, atol=1e-14)
    for key, value in whole_metrics.items():
        join = max if key.endswith("_max") else sum
        assert join(metrics[key].item() for _, _, metrics in parts) == pytest.approx(value.item()), key


@pytest.mark.parametrize("name", ["clip", "gspo", "cispo", "tis sequence", "sequence mean"])
def test_packs_of_the_policy_give_the_plain_loss_over_all_ranks(name):
    """The real packing, on two data-parallel ranks; log-probs are made a function of the rollout's to follow them."""
    cfg = SETTINGS[name]
    responses = make_responses(10, LENGTHS)
    for response in responses:
        response.logprobs = [0.9 * value for value in response.rollout]
        response.old = [1.1 * value for value in response.rollout]
    sequences = [TrainSequence([5, 6], [7] * len(r.rollout), r.advantage, r.rollout) for r in responses]
    loss, tokens = 0.0, 0.0
    for rank in range(2):
        for batch in pack(sequences, tokens_per_microbatch=16, data_rank=rank, data_size=2):
            rollout = batch.rollout_logprobs.double()
            batch.old_logprobs = 1.1 * rollout
            value, metrics = GrpoLoss(cfg, BatchTotals.of(sequences))(0.9 * rollout, None, batch)
            loss, tokens = loss + value.item(), tokens + metrics["tokens"].item()
    assert tokens == sum(LENGTHS)
    assert loss == pytest.approx(plain_loss(responses, cfg), abs=1e-6)


def test_a_pack_of_padding_alone_gives_a_zero_that_can_be_differentiated():
    loss, gradient, metrics = run([], replace(OFF_POLICY, correction="tis_sequence"), BatchTotals(5, 2), padding=8)
    assert loss == 0 and gradient.numel() == 0
    assert metrics["tokens"] == 0 and metrics["logprob_difference_max"] == 0


@pytest.mark.parametrize("loss", ["clip", "gspo", "cispo"])
def test_one_update_takes_the_current_logprobs_as_old_ones(loss):
    """Without old log-probs, the loss equals that with old = current, and the gradient is −A/N for every token."""
    cfg = GrpoConfig(loss=loss)
    responses = make_responses(7, LENGTHS)
    pack = as_pack(responses)
    pack.old_logprobs = None
    logprobs = pack.logprobs.clone().requires_grad_()
    value, metrics = GrpoLoss(cfg, TOTALS)(logprobs, None, pack)
    value.backward()
    for response in responses:
        response.old = list(response.logprobs)
    assert value.item() == pytest.approx(plain_loss(responses, cfg), abs=1e-12)
    expected = [-response.advantage / sum(LENGTHS) for response in responses for _ in response.logprobs]
    assert logprobs.grad[pack.mask].tolist() == pytest.approx(expected, abs=1e-12)
    assert metrics["ratio_sum"] == sum(LENGTHS) and metrics["old_kl_sum"] == 0
    assert metrics["clipped_low"] == 0 and metrics["clipped_high"] == 0


@pytest.mark.parametrize(("updates", "epochs", "needed"), [(1, 1, False), (2, 1, True), (1, 2, True)])
def test_old_logprobs_are_needed_for_several_updates(updates, epochs, needed):
    assert GrpoConfig(updates_per_batch=updates, epochs=epochs).needs_old_logprobs is needed


def test_metric_sums_equal_loops_over_tokens():
    responses = make_responses(9, LENGTHS)
    cfg = replace(OFF_POLICY, kl_coef=0.1, correction="icepop", correction_low=0.7, correction_high=1.5)
    _, _, metrics = run(responses, cfg)
    tokens = [
        (r.logprobs[t], r.old[t], r.rollout[t], r.reference[t], r.entropy[t], r.advantage)
        for r in responses
        for t in range(len(r.logprobs))
    ]
    ratios = [math.exp(c - o) for c, o, *_ in tokens]
    k3 = [math.exp(o - g) - (o - g) - 1 for _, o, g, *_ in tokens]
    weights = [math.exp(o - g) for _, o, g, *_ in tokens]
    expected = {
        "tokens": len(tokens),
        "ratio_sum": sum(ratios),
        "clipped_low": sum(r < 0.8 and t[5] < 0 for r, t in zip(ratios, tokens, strict=True)),
        "clipped_high": sum(r > 1.28 and t[5] > 0 for r, t in zip(ratios, tokens, strict=True)),
        "old_kl_sum": sum(math.exp(c - o) - (c - o) - 1 for c, o, *_ in tokens),
        "token_mult_prob_error_sum": sum(math.exp(abs(g - o)) for _, o, g, *_ in tokens),
        "logprob_difference_sum": sum(abs(g - o) for _, o, g, *_ in tokens),
        "gen_kl_error_sum": sum(k3),
        "logprob_difference_max": max(abs(g - o) for _, o, g, *_ in tokens),
        "entropy_sum": sum(t[4] for t in tokens),
        "kl_sum": sum(math.exp(f - c) - (f - c) - 1 for c, _, _, f, *_ in tokens),
        "correction_sum": sum(w for w in weights if 0.7 <= w <= 1.5),
        "correction_masked": sum(not 0.7 <= w <= 1.5 for w in weights),
    }
    assert {key: value.item() for key, value in metrics.items()} == pytest.approx(expected, abs=1e-9)
    assert expected["clipped_low"] and expected["clipped_high"] and expected["correction_masked"]


def test_extreme_logprobs_stay_finite():
    responses = make_responses(9, [4])
    responses[0].logprobs = [-1e-6, -900.0, -2.0, -1.0]
    responses[0].old = [-900.0, -1e-6, -2.0, -1.0]
    cfg = replace(OFF_POLICY, kl_coef=0.1, correction="tis_sequence")
    loss, gradient, metrics = run(responses, cfg)
    assert math.isfinite(loss) and gradient.isfinite().all()
    assert all(value.isfinite() for value in metrics.values())


@pytest.mark.parametrize(
    ("changes", "missing", "message"),
    [
        ({"kl_coef": 0.1}, "ref_logprobs", "grpo.kl_coef"),
        ({"updates_per_batch": 4}, "old_logprobs", "compute them before the first update"),
        ({"entropy_coef": 0.1}, "entropy", "grpo.entropy_coef"),
    ],
)
def test_a_missing_tensor_is_named(changes, missing, message):
    pack = as_pack(make_responses(1, LENGTHS))
    setattr(pack, missing, None)
    with pytest.raises(ValueError, match=message):
        GrpoLoss(GrpoConfig(**changes), TOTALS)(pack.logprobs, pack.entropy, pack)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "ppo"}, "grpo.loss: found 'ppo', expected one of clip, gspo, cispo"),
        ({"aggregation": "mean"}, "grpo.aggregation: found 'mean'"),
        ({"kl_estimator": "k4"}, "grpo.kl_estimator: found 'k4'"),
        ({"correction": "tis"}, "grpo.correction: found 'tis'"),
        ({"dual_clip": 3.0, "loss": "gspo"}, "grpo.dual_clip"),
        ({"dual_clip": 0.5}, "grpo.dual_clip"),
    ],
)
def test_an_unknown_setting_is_refused_with_what_exists(changes, message):
    cfg = Config(grpo=GrpoConfig(**changes))
    with pytest.raises(ValueError, match=message):
        check_values(cfg)
        check_training_values(cfg)


def test_constant_length_needs_a_length():
    with pytest.raises(ValueError, match="grpo.constant_length: found 0"):
        run(make_responses(1, LENGTHS), replace(OFF_POLICY, aggregation="constant_length"))


def test_totals_count_response_tokens_only():
    sequences = [SimpleNamespace(prompt_ids=[7] * 9, response_ids=[1] * length) for length in LENGTHS]
    assert BatchTotals.of(sequences) == TOTALS


def test_a_minibatch_with_nothing_in_it_is_refused():
    with pytest.raises(ValueError, match="nothing to train on"):
        BatchTotals.of([])
