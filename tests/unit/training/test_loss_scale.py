import pytest
import torch

from training.loss_scale import LossScale


def test_it_follows_the_rule_of_torch() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    theirs = torch.amp.GradScaler("cpu", growth_interval=3)  # type: ignore[attr-defined]
    ours = LossScale(growth_interval=3)
    for is_finite in (False, False, True, True, True, True, True, False, True, True, True, True):
        weight.grad = torch.tensor([1.0 if is_finite else float("inf")])
        theirs.scale(torch.zeros(1))
        theirs.step(optimizer)
        theirs.update()
        assert ours.update(is_finite=is_finite)
        assert ours.value == theirs.get_scale()


def test_its_state_goes_on() -> None:
    one, two = LossScale(growth_interval=3), LossScale(growth_interval=3)
    for is_finite in (False, True, True):
        one.update(is_finite=is_finite)
    two.load_state_dict(one.state_dict())
    assert two.value == 2.0**15
    two.update(is_finite=True)
    assert two.value == 2.0**16


def test_gradients_that_no_scale_makes_finite_are_not_explained_by_it() -> None:
    scale = LossScale()
    assert [scale.update(is_finite=False) for _ in range(18)] == [True] * 16 + [False] * 2
    assert scale.value == pytest.approx(1.0)
