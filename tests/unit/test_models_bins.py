"""Binned numeric inputs against values worked out by hand."""

import torch

from models.bins import NumericBins


def test_places_are_one_below_a_share_inside_and_zero_above() -> None:
    bins = NumericBins(num_inputs=1, num_bins=2, num_readings=2)
    bins.fit_edges(torch.tensor([[0.0], [1.0], [4.0]]))  # quantiles 0, 1, 4: bins [0, 1] and [1, 4]
    with torch.no_grad():
        bins.weight_FTD.copy_(torch.eye(2).unsqueeze(0))  # reading d is the place in bin d
    found = bins(torch.tensor([[-5.0], [0.25], [2.5], [9.0]]))
    assert found.tolist() == [[0.0, 0.0], [0.25, 0.0], [1.0, 0.5], [1.0, 1.0]]


def test_a_bin_without_width_stays_silent() -> None:
    bins = NumericBins(num_inputs=1, num_bins=4, num_readings=1)
    bins.fit_edges(torch.tensor([[2.0]] * 7))
    with torch.no_grad():
        bins.weight_FTD.fill_(1.0)
    assert bins(torch.tensor([[2.0], [100.0]])).tolist() == [[0.0], [0.0]]


def test_edges_travel_with_the_weights() -> None:
    trained, loaded = NumericBins(3), NumericBins(3)
    trained.fit_edges(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)))
    loaded.load_state_dict(trained.state_dict())
    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(trained(rows), loaded(rows))


def test_no_inputs_give_no_readings() -> None:
    bins = NumericBins(0)
    bins.fit_edges(torch.empty(5, 0))
    assert bins(torch.empty(5, 0)).shape == (5, 0)
