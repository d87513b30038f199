"""Posts of a batch by request: what belongs to the user is computed once per request and meets its posts in a grid.

Legend: B posts, R requests, P lines, C columns of the grid.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RequestGrid:
    """Posts [B] in a grid [P, C]: a line per request, several for a request with far more posts than the others."""

    request_of: Tensor
    """[B] request of each post."""
    slot: Tensor | None
    """[B] place of each post in the grid, lines first; None where one request's posts fill its only line in order."""
    request_of_line: Tensor | None
    """[P] request of each line; None where the lines are the requests."""
    num_lines: int
    num_columns: int

    def repeat(self, requests: Tensor) -> Tensor:
        """[R, ...] to [B, ...]."""
        if self.slot is None:
            return requests.expand(self.num_columns, *requests.shape[1:])
        return requests.index_select(0, self.request_of)

    def lines(self, requests: Tensor) -> Tensor:
        """[R, ...] to [P, ...]."""
        return requests if self.request_of_line is None else requests.index_select(0, self.request_of_line)

    def spread(self, posts: Tensor) -> Tensor:
        """[B, ...] to [P, C, ...], zeros where no post is."""
        if self.slot is None:
            return posts.unsqueeze(0)
        empty = posts.new_zeros(self.num_lines * self.num_columns, *posts.shape[1:])
        return empty.index_copy(0, self.slot, posts).view(self.num_lines, self.num_columns, *posts.shape[1:])

    def collect(self, grid: Tensor) -> Tensor:
        """[P, C, ...] to [B, ...]."""
        return grid[0] if self.slot is None else grid.flatten(0, 1).index_select(0, self.slot)


def request_grid(request_B: Tensor | None, num_requests: int, num_posts: int) -> RequestGrid:
    """The grid of `request_B`, the request of each post, in any order.

    None: one request has all posts, or each post its own. Raises ValueError where neither fits.
    """
    if request_B is None:
        if num_requests not in (1, num_posts):
            raise ValueError(f"{num_requests} users for {num_posts} posts; say which post is whose (user_of)")
        if num_requests == 1 and num_posts:
            return RequestGrid(torch.zeros(num_posts, dtype=torch.int64), None, None, 1, num_posts)
        request_B = torch.arange(num_posts) if num_requests == num_posts else torch.zeros(num_posts, dtype=torch.int64)
    device = request_B.device
    counts_R = torch.bincount(request_B, minlength=num_requests)
    # A line is as long as the longest request, unless that would leave most of the grid empty.
    columns = max(1, min(int(counts_R.max()), 2 * -(-num_posts // num_requests)))
    lines_R = (counts_R + columns - 1).div(columns, rounding_mode="floor").clamp(min=1)
    first_line_R = lines_R.cumsum(0) - lines_R
    order = request_B.argsort(stable=True)
    place_B = torch.empty_like(request_B)
    place_B[order] = torch.arange(num_posts, device=device) - (counts_R.cumsum(0) - counts_R)[request_B[order]]
    num_lines = int(lines_R.sum())
    request_P = (
        None if num_lines == num_requests else torch.arange(num_requests, device=device).repeat_interleave(lines_R)
    )
    # Lines of a request follow each other, so a place beyond the first line falls into the next.
    return RequestGrid(request_B, first_line_R[request_B] * columns + place_B, request_P, num_lines, columns)
