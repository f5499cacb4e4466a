"""Word vectors are trained as by dense Adam, at the cost of what a batch holds."""

import numpy as np
import pytest
import torch

from worker.distill.words import WordVectors

RATE = 1e-3
ROWS = np.array([1, 2, 5, 7, 8, 11])
# Long enough that momentum of the first words has faded, and that the table of steps has to grow.
BATCHES = [
    [1, 5, 5, 2],
    [7, 5, 1, 1],
    [2, 2, 2, 8],
    [11, 7, 1, 5],
    *([[2, 5, 7, 2]] * 1_200),
    [1, 1, 8, 2],
    [5, 5, 5, 7],
]


def table() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(13, 4, generator=torch.Generator().manual_seed(0)), requires_grad=False)


def loss_of(vectors: torch.Tensor) -> torch.Tensor:
    return (vectors.cumsum(0).tanh() * torch.arange(1.0, 5.0)).sum()


def train(words: WordVectors, batches: list[list[int]]) -> None:
    for batch in batches:
        loss_of(words.look_up(*torch.unique(torch.tensor(batch), return_inverse=True))).backward()
        words.step(RATE)


class TestWordVectors:
    @pytest.mark.parametrize("steps", [1, 3, 8, len(BATCHES)])
    def test_move_as_by_dense_adam(self, steps: int) -> None:
        ours = table()
        words = WordVectors(ours, ROWS)
        train(words, BATCHES[:steps])
        words.catch_up()
        theirs = torch.nn.Embedding.from_pretrained(table().data, freeze=False)
        optimizer = torch.optim.Adam(theirs.parameters(), lr=RATE)
        for batch in BATCHES[:steps]:
            optimizer.zero_grad()
            loss_of(theirs(torch.tensor(batch))).backward()
            optimizer.step()
        torch.testing.assert_close(ours, theirs.weight.detach(), atol=2e-6, rtol=1e-5)
        occurred = {row for batch in BATCHES[:steps] for row in batch}
        assert set((ours != table()).any(1).nonzero().flatten().tolist()) == occurred

    def test_stay_where_they_are_when_they_are_looked_at_again(self) -> None:
        ours = table()
        words = WordVectors(ours, ROWS)
        train(words, BATCHES[:4])
        words.catch_up()
        before = ours.clone()
        words.catch_up()
        assert torch.equal(ours, before)
        assert torch.equal(words.look_up(torch.tensor([2, 8]), torch.tensor([0, 1])), before[[2, 8]])

    def test_go_on_from_a_state(self) -> None:
        undisturbed, stopped = table(), table()
        train(WordVectors(undisturbed, ROWS), BATCHES)
        first = WordVectors(stopped, ROWS)
        train(first, BATCHES[:5])
        second = WordVectors(stopped, ROWS)
        assert second.load_state(first.state() | {"layer/step": torch.tensor(2.0)}) == {"layer/step": torch.tensor(2.0)}
        train(second, BATCHES[5:])
        assert torch.equal(stopped, undisturbed)

    def test_keep_moments_of_the_rows_that_can_occur_only(self) -> None:
        """Harm: a vocabulary of a quarter of a million words that fills the memory for a dataset of a thousand."""
        state = WordVectors(table(), ROWS).state()
        assert state["words/exp_avg"].shape == state["words/exp_avg_sq"].shape == (len(ROWS), 4)
