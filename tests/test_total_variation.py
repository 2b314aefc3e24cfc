"""TVmax against solvers of its problem, in closed form, and its gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, minimize
from torch import Tensor

from l2a_transfer.errors import ArgumentError
from l2a_transfer.models.normalizers import find_normalizer
from l2a_transfer.models.total_variation import MAX_ITERATIONS, connected, denoise, project_to_simplex, tvmax

SHAPES = [(1, 1), (1, 7), (5, 1), (2, 2), (4, 6), (8, 8)]


def scores(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def edges(height: int, width: int) -> NDArray[np.float64]:
    """D: a row a pair of neighbours, with −1 and 1."""
    at = np.arange(height * width).reshape(height, width)
    pairs = [*zip(at[:-1].flat, at[1:].flat, strict=True), *zip(at[:, :-1].flat, at[:, 1:].flat, strict=True)]
    found = np.zeros((len(pairs), height * width))
    for row, (one, other) in enumerate(pairs):
        found[row, one], found[row, other] = -1, 1
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5, 2.0, 30.0])
def test_denoising_is_the_bounded_least_squares_of_its_dual(shape: tuple[int, int], weight: float) -> None:
    z = scores(4, *shape)
    found, _ = denoise(z, weight)
    D = edges(*shape)
    for image, own in zip(z.numpy(), found.numpy(), strict=True):
        expected = image.ravel()
        if len(D):  # min ½‖z − Dᵀu‖² over |u| ≤ λ, by an active-set method
            u = lsq_linear(D.T, image.ravel(), (-weight, weight), method="bvls", tol=1e-15, max_iter=10_000).x
            expected = image.ravel() - D.T @ u
        np.testing.assert_allclose(own.ravel(), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("shape", "weight"), [*itertools.product([(2, 3), (3, 3)], [0.05, 0.3]), ((1, 5), 0.2)])
def test_it_solves_the_whole_problem(shape: tuple[int, int], weight: float) -> None:
    """Over the simplex, with one more variable for each edge that bounds its difference: a quadratic program."""
    z = scores(1, *shape, seed=1)
    D, P = edges(*shape), shape[0] * shape[1]
    found = minimize(
        lambda x: 0.5 * ((x[:P] - z.numpy().ravel()) ** 2).sum() + weight * x[P:].sum(),
        np.concatenate([np.full(P, 1 / P), np.ones(len(D))]),
        jac=lambda x: np.concatenate([x[:P] - z.numpy().ravel(), np.full(len(D), weight)]),
        bounds=[(0, 1)] * P + [(0, None)] * len(D),
        constraints=[
            {"type": "eq", "fun": lambda x: x[:P].sum() - 1},
            {"type": "ineq", "fun": lambda x: x[P:] - D @ x[:P]},
            {"type": "ineq", "fun": lambda x: x[P:] + D @ x[:P]},
        ],
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    np.testing.assert_allclose(tvmax(z, weight).numpy().ravel(), found.x[:P], rtol=0, atol=1e-8)


def test_without_a_penalty_it_is_sparsemax_and_with_a_large_one_uniform() -> None:
    z = scores(16, 6, 5)
    sparse = find_normalizer("sparsemax").function(z)
    torch.testing.assert_close(tvmax(z, 0.0), sparse, rtol=0, atol=1e-12)
    torch.testing.assert_close(project_to_simplex(z.flatten(1)).view_as(z), sparse, rtol=0, atol=1e-12)
    torch.testing.assert_close(tvmax(z, 100.0), torch.full_like(z, 1 / 30), rtol=0, atol=1e-12)
    assert (tvmax(z, 0.1) - sparse).abs().max() > 0.01


@pytest.mark.parametrize("weight", [1e12, 1e300])
def test_a_huge_penalty_takes_no_more_iterations_than_a_large_one(
    weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2a_transfer.models.total_variation.MAX_ITERATIONS", 500)
    z = torch.cat([scores(3, 6, 5), torch.zeros(1, 6, 5, dtype=torch.float64)])
    found, regions = denoise(z, weight)
    assert torch.equal(regions, torch.zeros_like(regions))
    torch.testing.assert_close(found, z.mean((1, 2), keepdim=True).expand_as(z), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e10, 1e20, 1e30])
def test_of_huge_scores_the_weights_sum_to_1(scale: float) -> None:
    z = scale * scores(4, 5, 5)
    for weight in (0.0, 0.1):
        own = tvmax(z, weight)
        torch.testing.assert_close(own.sum((1, 2)), torch.ones(4, dtype=torch.float64))
        assert torch.equal(own.flatten(1).argmax(1), z.flatten(1).argmax(1))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_weights_and_gradients_each_time() -> None:
    z = scores(64, 16, 16).float()
    found = []
    for device in ("cpu", "cuda", "cuda"):
        leaf = z.to(device).requires_grad_()
        weights = tvmax(leaf, 0.1)
        (gradient,) = torch.autograd.grad((weights * weights).sum(), leaf)
        found.append((weights.detach().cpu(), gradient.cpu()))
    for cpu, one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, cpu, rtol=1e-5, atol=1e-6)


def test_two_neighbours_in_closed_form() -> None:
    # each end moves λ towards the other until they meet: (0, 1) → (0.1, 0.9) → weights (0.1, 0.9)
    torch.testing.assert_close(tvmax(torch.tensor([[[0.0, 1.0]]]), 0.1), torch.tensor([[[0.1, 0.9]]]))
    torch.testing.assert_close(tvmax(torch.tensor([[[0.0], [1.0]]]), 0.6), torch.tensor([[[0.5], [0.5]]]))


@pytest.mark.parametrize("weight", [0.0, 0.05, 0.3])
def test_its_gradient(weight: float) -> None:
    z = scores(3, 3, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tvmax(x, weight), z, eps=1e-7, atol=1e-6)


def test_it_turns_with_the_image() -> None:
    z = scores(2, 6, 9)
    own = tvmax(z, 0.2)
    for turn in (lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.transpose(1, 2)):
        torch.testing.assert_close(tvmax(turn(z), 0.2), turn(own), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (3, -2), (-4, 4)])
def test_it_moves_with_what_the_image_shows(shift: tuple[int, int]) -> None:
    """A pattern inside a wide, constant border is moved by whole positions."""
    z = torch.full((2, 16, 16), -0.5, dtype=torch.float64)
    z[:, 6:10, 6:10] = scores(2, 4, 4, seed=3)
    own = tvmax(z, 0.1)
    moved = tvmax(z.roll(shift, (1, 2)), 0.1)
    assert torch.equal(moved > 0, (own > 0).roll(shift, (1, 2)))
    torch.testing.assert_close(moved, own.roll(shift, (1, 2)), rtol=0, atol=1e-12)
    assert own.flatten(1).unique(dim=1).shape[1] > 4


def test_images_are_independent_and_none_waits_for_a_faulty_one() -> None:
    z = scores(5, 6, 6)
    z[2, 3, 3] = torch.nan
    own = tvmax(z, 0.1)
    assert own[2].isnan().all()
    for row in (0, 1, 3, 4):
        torch.testing.assert_close(own[row], tvmax(z[row : row + 1], 0.1)[0], rtol=0, atol=1e-9)


def test_every_image_is_finished_before_the_last_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.cat([scores(16, 8, 8), 1e4 * scores(16, 8, 8, seed=1), torch.zeros(1, 8, 8, dtype=torch.float64)])
    full, _ = denoise(z, 0.7)
    assert MAX_ITERATIONS == 20_000
    monkeypatch.setattr("l2a_transfer.models.total_variation.MAX_ITERATIONS", 2_000)
    torch.testing.assert_close(denoise(z, 0.7)[0], full, rtol=0, atol=0)


def test_a_solver_that_does_not_converge_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    z = scores(4, 8, 8)
    z[1] = torch.nan
    full = tvmax(z, 0.7)
    monkeypatch.setattr("l2a_transfer.models.total_variation.MAX_ITERATIONS", 60)
    with pytest.warns(RuntimeWarning, match="TVmax did not converge in 60 iterations.*use a smaller λ"):
        cut = tvmax(z, 0.7)
    torch.testing.assert_close(cut, full, rtol=0, atol=0.1, equal_nan=True)


def test_regions_are_numbered_by_their_first_position() -> None:
    # a b b     the snake 0-1-2-5-8-7-6-3 is joined through its corners; 4 stands alone
    down = torch.tensor([[[False, False, True], [True, False, True]]])
    across = torch.tensor([[[True, True], [False, False], [True, True]]])
    assert connected((down, across)).tolist() == [[[0, 0, 0], [0, 4, 0], [0, 0, 0]]]
    nothing = (torch.zeros_like(down), torch.zeros_like(across))
    assert connected(nothing).flatten().tolist() == list(range(9))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_have_the_type_of_the_scores(kind: torch.dtype) -> None:
    weights = tvmax(scores(2, 5, 5).to(kind), 0.1)
    assert weights.dtype == kind
    assert weights.isfinite().all()


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ArgumentError, match="weight must be at least 0 and finite"):
        tvmax(scores(1, 2, 2), weight)


@pytest.mark.parametrize("text", ["tvmax:-1", "tvmax:nan", "tvmax:inf", "tvmax:", "tvmax:a", "tvmax:0.1:2"])
def test_a_parameter_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=f"the λ of 'tvmax' must be a number of at least 0; got '{text}'"):
        find_normalizer(text)


def test_a_normalizer_without_a_parameter_takes_none() -> None:
    with pytest.raises(ArgumentError, match="'softmax' takes no number; got 'softmax:2'"):
        find_normalizer("softmax:2")


def test_a_name_has_one_spelling() -> None:
    assert [find_normalizer(text).name for text in ("tvmax", "tvmax:0.10", "tvmax:1", "tvmax:1e0", "tvmax:-0")] == [
        "tvmax:0.1",
        "tvmax:0.1",
        "tvmax:1",
        "tvmax:1",
        "tvmax:0",
    ]
