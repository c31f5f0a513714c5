"""The consensus of snippets and M-TWI in plain loops, with their gradients."""

import math

import pytest
import torch
from tolerances import FLOAT64_SAME
from torch import Tensor

from muybridge.errors import ConfigError
from muybridge.models.tsn_consensus import (
    Attention,
    Average,
    Linear,
    SegmentHead,
    TopK,
    integrate_windows,
    window_scores,
)

B, S, D, K = 2, 5, 6, 4
TOP_K = 3
NAMES = ("average", "max", "top_k", "linear", "attention")


def make_head(consensus: str, *, dropout: float = 0.0, num_segments: int = S) -> SegmentHead:
    """Random weights everywhere: fresh ones of linear weighting and attention are those of the average."""
    torch.manual_seed(1)
    head = SegmentHead(
        D, K, dropout=dropout, consensus=consensus, num_segments=num_segments, top_k=TOP_K
    ).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def snippets(num_segments: int = S) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(B, num_segments, D, dtype=torch.float64)


def classify(head: SegmentHead, x: Tensor) -> list[list[list[float]]]:
    """Scores [B][S][K], one product at a time."""
    weight, bias = head.fc.weight.tolist(), head.fc.bias.tolist()
    return [
        [
            [
                sum(w * r for w, r in zip(row, one, strict=True)) + b
                for row, b in zip(weight, bias, strict=True)
            ]
            for one in video
        ]
        for video in x.tolist()
    ]


def shares(head: SegmentHead, features: list[list[float]]) -> list[float]:
    """What each snippet of a video counts in linear weighting and attention."""
    weight = head.consensus.weight.tolist()
    if isinstance(head.consensus, Linear):
        return weight
    powers = [math.exp(sum(w * r for w, r in zip(weight, one, strict=True))) for one in features]
    return [power / sum(powers) for power in powers]


def by_the_paper(head: SegmentHead, consensus: str, x: Tensor) -> list[list[float]]:
    """The consensus [B][K] by its formula."""
    answers = []
    for features, scores in zip(x.tolist(), classify(head, x), strict=True):
        answer = []
        for of_class in zip(*scores, strict=True):
            best = sorted(of_class, reverse=True)
            if consensus == "average":
                answer.append(sum(of_class) / len(of_class))
            elif consensus in ("max", "top_k"):
                count = TOP_K if consensus == "top_k" else 1
                answer.append(sum(best[:count]) / count)
            else:
                weights = shares(head, features)
                answer.append(sum(a * f for a, f in zip(weights, of_class, strict=True)))
        answers.append(answer)
    return answers


@torch.no_grad()
@pytest.mark.parametrize("consensus", NAMES)
def test_consensus_by_its_formula(consensus):
    head, x = make_head(consensus), snippets()
    expected = torch.tensor(by_the_paper(head, consensus, x), dtype=torch.float64)
    torch.testing.assert_close(head(x), expected, **FLOAT64_SAME)


def gradients_by_hand(consensus: str, module: torch.nn.Module, f: Tensor, r: Tensor, u: Tensor):
    """Of scores f, features r and the weight of the consensus, for the gradient u of its answer, in loops."""
    df, dr = torch.zeros_like(f), torch.zeros_like(r)
    dw = torch.zeros_like(module.weight) if hasattr(module, "weight") else None
    for b in range(B):
        if consensus == "attention":
            e = [math.exp(float(module.weight @ r[b, k])) for k in range(S)]
            a = [one / sum(e) for one in e]
        for c in range(K):
            scores = f[b, :, c].tolist()
            order = sorted(range(S), key=lambda k: -scores[k])
            for k in range(S):
                up = float(u[b, c])
                if consensus == "average":
                    df[b, k, c] = up / S
                elif consensus in ("max", "top_k"):
                    count = TOP_K if consensus == "top_k" else 1
                    df[b, k, c] = up / count if k in order[:count] else 0
                elif consensus == "linear":
                    df[b, k, c] = up * float(module.weight[k])
                    dw[k] += up * scores[k]
                else:
                    df[b, k, c] = up * a[k]
                    answer = sum(share * score for share, score in zip(a, scores, strict=True))
                    through = up * a[k] * (scores[k] - answer)  # of e_k = w . R_k
                    dr[b, k] += through * module.weight
                    dw += through * r[b, k]
    return df, dr, dw


@pytest.mark.parametrize("consensus", NAMES)
def test_gradients_of_the_consensus_by_hand(consensus):
    module = make_head(consensus).consensus
    torch.manual_seed(3)
    f, r = torch.randn(B, S, K, dtype=torch.float64), snippets()
    u = torch.randn(B, K, dtype=torch.float64)
    f.requires_grad_(), r.requires_grad_()
    module(f, r).backward(u)
    with torch.no_grad():
        df, dr, dw = gradients_by_hand(consensus, module, f, r, u)
    torch.testing.assert_close(f.grad, df, **FLOAT64_SAME)
    if consensus == "attention":
        torch.testing.assert_close(r.grad, dr, **FLOAT64_SAME)
        assert float(dr.abs().min()) > 0
    else:
        assert r.grad is None
    if dw is not None:
        torch.testing.assert_close(module.weight.grad, dw, **FLOAT64_SAME)


def test_gradients_reach_the_features_of_every_snippet_numerically():
    for consensus in NAMES:
        head, x = make_head(consensus), snippets()
        assert torch.autograd.gradcheck(head, (x.requires_grad_(),))


@torch.no_grad()
def test_max_is_top_1_and_average_is_top_all():
    torch.manual_seed(4)
    f, r = torch.randn(B, S, K, dtype=torch.float64), snippets()
    average = Average()(f, r)
    assert torch.equal(make_head("max").consensus(f, r), f.amax(1))
    assert torch.equal(TopK(1)(f, r), f.amax(1))
    torch.testing.assert_close(TopK(S)(f, r), average, **FLOAT64_SAME)
    linear = Linear(S)
    torch.testing.assert_close(linear(f.float(), r), average.float())  # 1 / S at first
    torch.nn.init.constant_(linear.double().weight, 1 / S)
    torch.testing.assert_close(linear(f, r), average, **FLOAT64_SAME)
    torch.testing.assert_close(Attention(D).double()(f, r), average, **FLOAT64_SAME)  # w = 0 at first


@torch.no_grad()
@pytest.mark.parametrize("consensus", NAMES)
def test_equal_snippets_answer_as_one(consensus):
    head, one = make_head(consensus), snippets(1)
    if consensus == "linear":
        head.consensus.weight /= head.consensus.weight.sum()
    torch.testing.assert_close(head(one.expand(-1, S, -1)), head(one), **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize("consensus", NAMES)
def test_one_snippet_is_answered_by_its_own_scores(consensus):
    head, x = make_head(consensus), snippets(1)
    assert torch.equal(head(x), head.fc(x[:, 0]))
    assert torch.equal(head(x[:, 0]), head.fc(x[:, 0]))


@torch.no_grad()
@pytest.mark.parametrize("consensus", NAMES)
def test_order_matters_to_linear_weighting_alone(consensus):
    head, x = make_head(consensus), snippets()
    same = torch.allclose(head(x), head(x.flip(1)), rtol=1e-10)
    assert same == (consensus != "linear")


def test_each_snippet_has_a_dropout_mask_of_its_own():
    head = make_head("average", dropout=0.5).train()
    seen: list[Tensor] = []
    head.dropout.register_forward_hook(lambda module, args, output: seen.append(output))
    head(torch.ones(1, S, D, dtype=torch.float64))
    kept = seen[0] > 0
    assert kept.shape == (S, D)
    assert len({tuple(row) for row in kept.tolist()}) > 1


@torch.no_grad()
def test_the_consensus_comes_before_the_softmax():
    head, x = make_head("average"), 3 * snippets()
    scores = head.fc(x)
    torch.testing.assert_close(head(x).softmax(1), scores.mean(1).softmax(1), **FLOAT64_SAME)
    assert not torch.allclose(head(x).softmax(1), scores.softmax(2).mean(1), atol=0.01)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ConfigError, match=r"consensus must be one of average, max, .*, got 'mean'"):
        SegmentHead(D, K, consensus="mean")
    with pytest.raises(ConfigError, match=r"takes the top_k best .*, got 4 of 3: lower top_k"):
        SegmentHead(D, K, consensus="top_k", num_segments=3, top_k=4)
    with pytest.raises(ConfigError, match=r"'linear' weighs several snippets, got num_segments=1: raise it"):
        SegmentHead(D, K, consensus="linear", num_segments=1)
    with pytest.raises(ConfigError, match=r"weights for 5 snippets, got 4: sample clips of num_segments=5"):
        make_head("linear")(snippets(4))
    with pytest.raises(ConfigError, match="the 3 best of at least as many snippets, got 2: sample clips of"):
        make_head("top_k")(snippets(2))


def windows_in_loops(scores: list[list[float]], seconds: int) -> list[list[float]]:
    """Windows of so many seconds, 0.8 of that apart rounded up; the best score of each class in each."""
    step = math.ceil(round(0.8 * seconds, 9))
    found = []
    first = 0
    while first < len(scores):
        found.append([max(of_class) for of_class in zip(*scores[first : first + seconds], strict=True)])
        first += step
    return found


def m_twi_in_loops(scores: list[list[float]]) -> list[float]:
    of_lengths = []
    for seconds in (1, 2, 4, 8, 16):
        windows = windows_in_loops(scores, seconds)
        count = max(15, math.ceil(len(windows) / 4))
        best = [sorted(of_class, reverse=True)[:count] for of_class in zip(*windows, strict=True)]
        of_lengths.append([sum(one) / len(one) for one in best])
    return [sum(of_class) / 5 for of_class in zip(*of_lengths, strict=True)]


@pytest.mark.parametrize("num_seconds", [1, 2, 7, 16, 61, 120, 300])
def test_m_twi_in_loops(num_seconds):
    torch.manual_seed(num_seconds)
    scores = torch.randn(num_seconds, 3, dtype=torch.float64)
    for seconds in (1, 2, 4, 8, 16):
        assert window_scores(scores, seconds).tolist() == windows_in_loops(scores.tolist(), seconds)
    expected = torch.tensor(m_twi_in_loops(scores.tolist()), dtype=torch.float64)
    torch.testing.assert_close(integrate_windows(scores), expected, **FLOAT64_SAME)


def test_windows_of_two_minutes_are_as_many_as_in_the_authors_code():
    scores = torch.zeros(120, 1)
    assert [len(window_scores(scores, seconds)) for seconds in (1, 2, 4, 8, 16)] == [120, 60, 30, 18, 10]


def test_m_twi_of_a_constant_is_the_constant():
    scores = torch.tensor([1.0, -2.0, 0.5]).expand(90, 3).double()
    torch.testing.assert_close(integrate_windows(scores), scores[0], **FLOAT64_SAME)


def test_one_good_second_counts_more_the_longer_the_window():
    scores = torch.zeros(120, 1, dtype=torch.float64)
    scores[8] = 1  # within one window of each length
    each = [float(integrate_windows(scores, seconds=(length,))) for length in (1, 2, 4, 8, 16)]
    assert each == pytest.approx([1 / 30, 1 / 15, 1 / 15, 1 / 15, 1 / 10])
    assert float(integrate_windows(scores)) == pytest.approx(sum(each) / 5)


def test_of_several_crops_the_best_one_of_each_snippet_counts():
    torch.manual_seed(5)
    scores = torch.randn(30, 10, 3, dtype=torch.float64)
    assert torch.equal(integrate_windows(scores), integrate_windows(scores.amax(1)))


def test_a_video_without_snippets_is_refused():
    with pytest.raises(ValueError, match=r"M-TWI needs the scores of one snippet a second, got \[0, 3\]"):
        integrate_windows(torch.zeros(0, 3))
