import numpy as np
import pytest
import torch

from worker.distill.transfer import place, side_by_side


class TestPlace:
    @pytest.mark.parametrize(
        "device",
        [
            "cpu",
            pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
        ],
    )
    def test_gives_equal_tensors(self, device: str) -> None:
        arrays = some_arrays()
        placed = place(arrays, torch.device(device))
        assert list(placed) == list(arrays)
        for name, array in arrays.items():
            assert placed[name].device.type == device
            assert placed[name].numpy(force=True).dtype == array.dtype
            np.testing.assert_array_equal(placed[name].numpy(force=True), array)

    def test_side_by_side_loses_nothing(self) -> None:
        """What a GPU gets, read back without one."""
        arrays = some_arrays()
        for name, tensor in side_by_side(arrays, lambda staged: staged.clone()).items():
            assert tensor.numpy().dtype == arrays[name].dtype
            np.testing.assert_array_equal(tensor.numpy(), arrays[name])


def some_arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "flags": generator.integers(2, size=(3, 5)).astype(bool),
        "numbers": generator.integers(9, size=7),
        "columns": generator.normal(size=(4, 6)).astype(np.float32)[:, ::2],
        "nothing": np.empty((0, 3), np.float32),
        "one": np.array([2**40]),
    }
