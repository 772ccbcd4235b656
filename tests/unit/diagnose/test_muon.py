import pytest
import torch
from torch import nn

from stratascope.diagnose import Muon
from stratascope.diagnose._muon import orthogonalise


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (1, 9)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)

    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())

    assert ((values > 0.6) & (values < 1.3)).all()


def test_a_matrix_of_zeros_stays():
    assert not orthogonalise(torch.zeros(3, 4)).any()


def test_a_scheduler_sets_the_rate_of_all_groups():
    layer = nn.Linear(4, 3)
    muon = Muon([{"params": [layer.weight]}, {"params": [layer.bias], "orthogonal": False}], 1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(muon, 1, gamma=0.1)
    layer(torch.ones(2, 4)).sum().backward()

    muon.step()
    scheduler.step()

    assert [group["lr"] for group in muon.param_groups] == [0.1, 0.1]


def test_a_momentum_of_one_is_refused():
    with pytest.raises(ValueError, match="momentum must be at least 0 and below 1"):
        Muon(nn.Linear(2, 2).parameters(), momentum=1.0)
