"""`python -m bench.speed.matmul`: the machine's own matmul rate at the shapes of a training step, in FLOP/s.

A process of its own, run right before and after a job: nothing of it is left when the job's clock runs. Prints JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

_LEAST_REPEATS = 5
_PRODUCTS_OF_A_GRAPH = 50
_PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.speed.matmul", description=__doc__)
    for name in ("tokens", "hidden", "intermediate", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.15, help="for each shape and precision")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rates = {
        name: measure(options.tokens, options.hidden, options.intermediate, dtype, options.seconds, options.device)
        for name, dtype in _PRECISIONS.items()
    }
    print(json.dumps(rates))


def measure(
    tokens: int, hidden: int, intermediate: int, dtype: torch.dtype, seconds_each: float, device: str
) -> dict[str, Any]:
    """`rate`: of all matmuls that one layer needs for a step, one after the other; `shapes`: each by itself."""
    shapes, flops, seconds = {}, 0.0, 0.0
    # How often each weight, outputs x inputs, stands in a layer: the four of the attention are alike.
    for count, outputs, inputs in ((4, hidden, hidden), (1, intermediate, hidden), (1, hidden, intermediate)):
        x = torch.randn(tokens, inputs).to(device, dtype)
        weight = torch.randn(outputs, inputs).to(device, dtype)
        gradient = torch.randn(tokens, outputs).to(device, dtype)
        for name, multiply in _products(x, weight, gradient).items():
            each = 2.0 * tokens * inputs * outputs
            duration = (_graph_seconds if device == "cuda" else _median_seconds)(multiply, seconds_each)
            shapes[f"{name} {tokens}x{inputs}x{outputs}"] = each / duration
            flops += count * each
            seconds += count * duration
    return {"rate": flops / seconds, "shapes": shapes}


def _products(x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """What a linear layer multiplies in a step."""
    return {
        "forward": lambda: x @ weight.t(),
        "input gradient": lambda: gradient @ weight,
        "weight gradient": lambda: gradient.t() @ x,
    }


def _median_seconds(multiply: Callable[[], torch.Tensor], at_least: float) -> float:
    multiply()
    multiply()
    durations: list[float] = []
    until = time.perf_counter() + at_least
    while len(durations) < _LEAST_REPEATS or time.perf_counter() < until:
        began = time.perf_counter()
        multiply()
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


def _graph_seconds(multiply: Callable[[], torch.Tensor], at_least: float) -> float:
    """On a GPU: of many in one graph, so that asking for a product takes no time of it."""
    multiply()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_PRODUCTS_OF_A_GRAPH):
            multiply()

    def replay() -> torch.Tensor:
        graph.replay()
        torch.cuda.synchronize()
        return torch.empty(0)

    return _median_seconds(replay, at_least) / _PRODUCTS_OF_A_GRAPH


if __name__ == "__main__":
    main()
