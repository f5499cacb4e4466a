"""Every random stream, each a pure function of the job's seed, a name and a position.

Nothing draws from a stream whose state has to be remembered: the order of an epoch, the dropout of a
step and the synthesis of a round are each seeded from where they stand. So a resume needs no random
state beyond the position, and a change in one stream (say more synthesis) never moves another.
"""

import hashlib

import numpy as np
import torch


def derive(seed: int, *position: str | int) -> int:
    """A 63-bit seed for the stream that `position` names, e.g. derive(7, "student", "dropout", 120)."""
    text = "/".join([str(seed), *map(str, position)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *position: str | int) -> np.random.Generator:
    return np.random.default_rng(derive(seed, *position))


def seed_dropout(seed: int, *position: str | int) -> None:
    """Seed torch's global generators (CPU and CUDA): dropout and weight initialisation draw from them."""
    torch.manual_seed(derive(seed, *position))
