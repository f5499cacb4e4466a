"""The word vectors of a model in training: of its table, only the rows that occur are trained.

A dense gradient of the whole table, and an optimiser's pass over it, would cost a third of a step. Here a step costs
what its batch holds, and a row still ends where dense Adam would have put it: momentum moves a row on for some steps
after it occurred, and that movement, put off, is made up for when the row is next looked at.
"""

import math

import numpy as np
import torch

Tensor = torch.Tensor

# Of Adam; torch's defaults.
_FIRST_DECAY, _SECOND_DECAY, _EPSILON = 0.9, 0.999, 1e-8
# By how much the movement that momentum causes shrinks from step to step, and after how many steps it is nothing.
_FADE = _FIRST_DECAY / math.sqrt(_SECOND_DECAY)
_FADES_WITHIN_STEPS = 200
# Catching up takes some copies of the rows in hand: bounded, whatever the size of the table.
_CHUNK_ROWS = 8_192


class WordVectors:
    """Adam (Kingma and Ba, 2015, algorithm 1) over rows of a word table, without decay of the weights.

    A row that was last moved in step s, with moments m and v, would in steps s + 1 to t without a gradient go by
    sum over j of rate(s + j) m b1^j / (1 - b1^(s + j)) / sqrt(v b2^j / (1 - b2^(s + j))). All but m / sqrt(v) is the
    same for every row that was last moved in s, so one number for each past step, `pending`, is all that is kept up.
    """

    def __init__(self, table: torch.nn.Parameter, rows: np.ndarray) -> None:
        """`table` (vocabulary, width) is changed in place; `rows` are the ids that may occur, ascending."""
        device = table.device
        self.rows = torch.from_numpy(rows.astype(np.int64)).to(device)
        self._table = table
        self._place_of = torch.full((len(table),), -1, dtype=torch.int64, device=device)
        self._place_of[self.rows] = torch.arange(len(self.rows), device=device)
        self._first = torch.zeros(len(self.rows), table.shape[1], device=device)
        self._second = torch.zeros_like(self._first)
        self._moved_in = torch.zeros(len(self.rows), dtype=torch.int64, device=device)  # step; 0: never
        self._steps = 0
        # (steps + 1,) and room to grow: for a row last moved in that step, how many m / sqrt(v) it lags behind.
        self._pending = torch.zeros(1_024, dtype=torch.float64, device=device)
        powers = torch.arange(_FADES_WITHIN_STEPS, 0, -1, dtype=torch.float64, device=device)
        self._fading = _FADE**powers
        self._is_caught_up = True
        self._ids = self.rows[:0]
        self._moments = (self._first[:0], self._second[:0])
        # The distinct rows of the batch under way, (distinct, width): the leaf that backward() leaves a gradient at.
        self.looked_up = torch.nn.Parameter(self._first[:0])

    def look_up(self, ids: Tensor, which: Tensor) -> Tensor:
        """(*which, width) the vectors of the distinct `ids`, all of them among the rows, in the order that `which`
        says; the next step moves these."""
        self._ids = ids
        vectors, first, second = self._caught_up(self._ids, self._place_of[self._ids])
        self._moments = (first, second)
        self.looked_up = torch.nn.Parameter(vectors)
        return torch.nn.functional.embedding(which, self.looked_up)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move the rows looked up last along their gradient, and put the others' movement off."""
        gradient = self.looked_up.grad
        assert gradient is not None, "backward() comes before step()"
        self._steps += 1
        first, second = self._moments
        first.lerp_(gradient, 1 - _FIRST_DECAY)
        second.mul_(_SECOND_DECAY).addcmul_(gradient, gradient, value=1 - _SECOND_DECAY)
        places = self._place_of[self._ids]
        self._first.index_copy_(0, places, first)
        self._second.index_copy_(0, places, second)
        self._moved_in.index_fill_(0, places, self._steps)  # by an assignment a GPU would be waited for
        rate = learning_rate / (1 - _FIRST_DECAY**self._steps)
        correction = 1 - _SECOND_DECAY**self._steps
        denominator = second.div_(correction).sqrt_().add_(_EPSILON)
        self._table.index_copy_(0, self._ids, self.looked_up.addcdiv(first, denominator, value=-rate))
        self._put_off(rate * math.sqrt(correction))
        self._is_caught_up = False

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring every row of the table to where it is by now. Not to be called where it would not always be: it
        changes the last bits of what comes after."""
        if self._is_caught_up:
            return
        for start in range(0, len(self.rows), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            rows = self.rows[part]
            places = torch.arange(start, start + len(rows), device=rows.device)
            vectors, self._first[part], self._second[part] = self._caught_up(rows, places)
            self._table.index_copy_(0, rows, vectors)
        self._moved_in.fill_(self._steps)
        self._is_caught_up = True

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs of it, on the processor."""
        tensors = {
            "words/exp_avg": self._first,
            "words/exp_avg_sq": self._second,
            "words/moved_in": self._moved_in,
            "words/pending": self._pending[: self._steps + 1],
        }
        return {name: value.to("cpu", copy=True) for name, value in tensors.items()}

    def load_state(self, saved: dict[str, Tensor]) -> dict[str, Tensor]:
        """Go on from the `state()` of the same rows that is among `saved`; returns what else is there."""
        self._first.copy_(saved["words/exp_avg"])
        self._second.copy_(saved["words/exp_avg_sq"])
        self._moved_in.copy_(saved["words/moved_in"])
        pending = saved["words/pending"]
        self._steps = len(pending) - 1
        self._make_room()
        self._pending[: len(pending)] = pending.to(self._pending.device)
        self._is_caught_up = bool((self._moved_in == self._steps).all())
        return {name: value for name, value in saved.items() if not name.startswith("words/")}

    @torch.no_grad()
    def _caught_up(self, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copies (rows, width) of vectors and moments as they are after the newest step."""
        moved_in = self._moved_in[places]
        lag = (self._steps - moved_in)[:, None].double()
        first, second = self._first.index_select(0, places), self._second.index_select(0, places)
        direction = first / second.sqrt().add_(_EPSILON)
        vectors = self._table.index_select(0, rows).sub_(direction.mul_(self._pending[moved_in][:, None].float()))
        return vectors, first.mul_((_FIRST_DECAY**lag).float()), second.mul_((_SECOND_DECAY**lag).float())

    def _put_off(self, movement: float) -> None:
        """Note what the newest step would have moved the rows of earlier steps by, in m / sqrt(v)."""
        self._make_room()
        start = max(0, self._steps - _FADES_WITHIN_STEPS)
        self._pending[start : self._steps].add_(self._fading[start - self._steps :], alpha=movement)

    def _make_room(self) -> None:
        while self._steps >= len(self._pending):
            self._pending = torch.cat([self._pending, torch.zeros_like(self._pending)])
