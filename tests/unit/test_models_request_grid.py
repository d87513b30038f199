import pytest
import torch

from models.request_grid import request_grid


def test_posts_of_three_requests_by_hand():
    grid = request_grid(torch.tensor([1, 0, 1, 2, 1]), 3, 5)
    posts = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0])
    assert grid.spread(posts).tolist() == [[20.0, 0.0, 0.0], [10.0, 30.0, 50.0], [40.0, 0.0, 0.0]]
    assert grid.collect(grid.spread(posts)).tolist() == posts.tolist()
    assert grid.repeat(torch.tensor([7, 8, 9])).tolist() == [8, 7, 8, 9, 8]


def test_a_request_far_longer_than_the_others_takes_several_lines():
    request_of = torch.tensor([0] * 11 + list(range(1, 12)))
    grid = request_grid(request_of, 12, 22)
    posts = torch.arange(22)
    assert (grid.num_lines, grid.num_columns) == (14, 4)
    assert grid.lines(torch.arange(12)).tolist() == [0, 0, 0, *range(1, 12)]
    assert grid.spread(posts)[:3].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 0]]
    assert torch.equal(grid.collect(grid.spread(posts)), posts)


def test_one_user_has_all_posts_or_each_post_its_own():
    assert request_grid(None, 1, 3).repeat(torch.tensor([5])).tolist() == [5, 5, 5]
    assert request_grid(None, 3, 3).repeat(torch.tensor([5, 6, 7])).tolist() == [5, 6, 7]
    with pytest.raises(ValueError, match="2 users for 3 posts"):
        request_grid(None, 2, 3)


def test_the_grid_of_one_request_is_the_general_one():
    alone, general = request_grid(None, 1, 5), request_grid(torch.zeros(5, dtype=torch.int64), 2, 5)
    user, posts = torch.randn(1, 3), torch.randn(5, 4)
    assert torch.equal(alone.repeat(user), general.repeat(torch.cat([user, user])))
    assert torch.equal(alone.spread(posts)[0], general.spread(posts)[0])
    assert torch.equal(alone.collect(alone.spread(posts)), posts)
    assert torch.equal(alone.lines(user), user)
