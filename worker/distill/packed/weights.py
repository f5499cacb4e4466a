"""The trainable weights as two flat tensors, and what a forward pass reads of them.

The optimiser steps over two long tensors (with and without weight decay) instead of hundreds of small ones. The
model's own parameters become views of them, so its state_dict is what it was. In bf16 a second flat tensor holds
the copy that the matrix products read, made anew after each step; the masters stay fp32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

# Every run of weights begins at a multiple of so many elements: a cache line in either precision.
_ALIGNMENT = 64


@dataclass(frozen=True)
class _Slot:
    group: int
    start: int
    shape: torch.Size

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        return flat[self.start : self.start + self.shape.numel()].view(self.shape)


class FlatWeights:
    """Parameters by name, in runs of those that are to lie side by side; those of several dimensions are decayed."""

    def __init__(self, runs: Sequence[dict[str, torch.nn.Parameter]], compute_dtype: torch.dtype) -> None:
        self._slots: dict[str, _Slot] = {}
        sizes = [0, 0]
        for run in runs:
            for name, parameter in run.items():
                group = 0 if parameter.ndim > 1 else 1
                self._slots[name] = _Slot(group, sizes[group], parameter.shape)
                sizes[group] += parameter.numel()
            sizes = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
        parameters = {name: parameter for run in runs for name, parameter in run.items()}
        device = next(iter(parameters.values())).device
        self.masters = [torch.nn.Parameter(torch.zeros(size, device=device)) for size in sizes]
        with torch.no_grad():
            for name, parameter in parameters.items():
                view = self._view(name, self.masters)
                view.copy_(parameter)
                parameter.data = view
        self._has_copy = compute_dtype is not torch.float32
        self._copies = [m.detach().to(compute_dtype) if self._has_copy else m.detach() for m in self.masters]
        self._leaves: list[tuple[torch.Tensor, _Slot]] = []

    @property
    def leaves(self) -> list[torch.Tensor]:
        """What the forward pass reads, in the order in which it was asked for."""
        return [leaf for leaf, _ in self._leaves]

    def read(self, *names: str, is_exact: bool = False, leaves_gradient: bool = True) -> torch.Tensor:
        """A leaf of the forward pass: one weight, or several that lie side by side stacked along their first
        dimension. `is_exact` reads the fp32 masters. Where the reader puts the gradient where `gradient_of` says,
        autograd leaves none."""
        whole = self._stacked(names)
        source = [m.detach() for m in self.masters] if is_exact else self._copies
        leaf = whole.of(source[whole.group]).detach()
        if leaves_gradient:
            self._leaves.append((leaf.requires_grad_(), whole))
        return leaf

    def gradient_of(self, *names: str) -> Callable[[], torch.Tensor]:
        """Where the masters' gradient of what `read` gives for `names` is to go."""
        whole = self._stacked(names)

        def gradient() -> torch.Tensor:
            self.make_room_for_gradients()
            return whole.of(cast(torch.Tensor, self.masters[whole.group].grad))

        return gradient

    def gather_gradients(self) -> None:
        """Move what backward left at the leaves into the masters' gradients."""
        self.put_gradients([leaf.grad for leaf, _ in self._leaves])
        for leaf, _ in self._leaves:
            leaf.grad = None

    @torch.no_grad()
    def put_gradients(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Copy the `gradients` of the leaves, in their order, into the masters'; None stands for zeros."""
        self.make_room_for_gradients()
        by_dtype: dict[torch.dtype, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for (_, slot), value in zip(self._leaves, gradients, strict=True):
            target = slot.of(cast(torch.Tensor, self.masters[slot.group].grad))
            if value is None:
                target.zero_()
            else:
                by_dtype.setdefault(value.dtype, []).append((target, value))
        for pairs in by_dtype.values():  # on a GPU all of one precision are one kernel
            torch._foreach_copy_([target for target, _ in pairs], [value for _, value in pairs])

    def make_room_for_gradients(self) -> None:
        for master in self.masters:
            if master.grad is None:  # a teacher that is only asked never needs the room
                master.grad = torch.zeros_like(master)

    def gradient(self, name: str) -> torch.Tensor:
        """The gradient of one parameter, as it was last gathered."""
        slot = self._slots[name]
        return slot.of(cast(torch.Tensor, self.masters[slot.group].grad))

    def refresh(self) -> None:
        """Bring the copies up to the masters, after a step or after weights were put back."""
        if self._has_copy:
            with torch.no_grad():
                for copy, master in zip(self._copies, self.masters, strict=True):
                    copy.copy_(master)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        """AdamW's state as "{name}/{state}" tensors on the processor."""
        gathered: dict[str, torch.Tensor] = {}
        for name, slot in self._slots.items():
            for key, value in optimizer.state.get(self.masters[slot.group], {}).items():
                part = value if value.ndim == 0 else slot.of(value)
                gathered[f"{name}/{key}"] = part.detach().to("cpu", copy=True).contiguous()
        return gathered

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
        for key, value in saved.items():
            name, _, state = key.rpartition("/")
            slot = self._slots[name]
            master = self.masters[slot.group]
            held = cast(dict[str, Any], optimizer.state[master])
            if value.ndim == 0 and state == "step":
                held[state] = value.to(master.device, copy=True)  # where the fused AdamW wants it
            else:
                slot.of(held.setdefault(state, torch.zeros_like(master))).copy_(value)

    def _stacked(self, names: Sequence[str]) -> _Slot:
        slots = [self._slots[name] for name in names]
        first = slots[0]
        rows = sum(slot.shape[0] for slot in slots)
        ends = [slot.start + slot.shape.numel() for slot in slots]
        if [slot.start for slot in slots[1:]] != ends[:-1]:
            raise ValueError(f"{', '.join(names)} do not lie side by side, so one product cannot read them all.")
        return _Slot(first.group, first.start, torch.Size([rows, *first.shape[1:]]))

    def _view(self, name: str, flats: Sequence[torch.Tensor]) -> torch.Tensor:
        slot = self._slots[name]
        return slot.of(flats[slot.group].data)
