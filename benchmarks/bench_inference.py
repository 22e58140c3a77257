"""Images a second of an exported network by onnxruntime and by torch eager, same threads, in turn, in one process.

The weights are drawn, which changes no time. Both take uint8 images at the network's size and return logits; torch
runs as evaluation runs it (channels last in memory, inference mode). Each way counts at its best batch; one image at
a time is given apart. Rates are of processor time, which a busy machine changes least, and of wall time. The roofline:
operations of convolutions and dense layers a second of processor time, as a share of the best float32 matrix product
measured so in the same process.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/bench_inference.py --threads 1 --models compact baseline
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from conditions import record
from hemalens.export.network import assemble, trace_network
from hemalens.export.quantise import quantise
from hemalens.inference.model import Session, open_session
from hemalens.training.models import Normalised, build_model
from hemalens.training.tensors import to_batch

BATCHES = (1, 8, 32, 256)
Run = Callable[[np.ndarray], object]


def operations(module: nn.Module, size: int) -> int:
    """Return the multiplications and additions (two a product) of convolutions and dense layers for one image."""
    found: list[int] = []

    def count(layer: nn.Module, _: tuple[Tensor, ...], made: Tensor) -> None:
        weight = layer.weight
        indices = made[0].numel() // weight.shape[0]
        found.append(2 * weight.numel() * indices)

    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        module(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return sum(found)


def peak(threads: int) -> dict[str, float]:
    """Return the operations a second of processor time of float32 matrix products, by torch and by onnxruntime.

    Both, since they take different paths: torch's library keeps to AVX2 on processors that are not Intel's.
    """
    best = {"torch": 0.0, "onnxruntime": 0.0}
    for side in (512, 1024):
        square = np.random.default_rng(0).random((side, side), np.float32)
        tensor, session = torch.from_numpy(square), product(side, threads)
        ways: dict[str, Callable[[], object]] = {
            "torch": lambda tensor=tensor: torch.mm(tensor, tensor),
            "onnxruntime": lambda session=session, square=square: session.run(None, {"a": square, "b": square}),
        }
        for name, way in ways.items():
            for _ in range(8):
                started = time.process_time()
                for _ in range(4):
                    way()
                best[name] = max(best[name], 8 * side**3 / (time.process_time() - started))
    return best


def product(side: int, threads: int) -> Session:
    """Return a model that multiplies two matrices (side, side)."""
    shape, kind = [side, side], onnx.TensorProto.FLOAT
    given = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in "ab"]
    made = onnx.helper.make_tensor_value_info("c", kind, shape)
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["a", "b"], ["c"])], "product", given, [made])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return open_session(model.SerializeToString(), threads=threads, name="product")


def measure(ways: dict[str, Run], batch: int, size: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Return images a second of processor and of wall time: medians of rounds in which the ways take turns."""
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    repeats = max(1, 256 // batch)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            spent, started = time.process_time(), time.perf_counter()
            for _ in range(repeats):
                way(images)
            if turn:
                seconds = time.process_time() - spent, time.perf_counter() - started
                rates[name].append((batch * repeats / seconds[0], batch * repeats / seconds[1]))
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in rates.items()
    }
    return {name: (round(cpu, 1), round(wall, 1)) for name, (cpu, wall) in medians.items()}


def of(name: str, size: int, threads: int, rounds: int, top: float) -> dict[str, Any]:
    module = Normalised(build_model(name, 8, image_size=size), torch.full((3,), 0.6), torch.full((3,), 0.2)).eval()
    network = trace_network(module, size)
    calibration = np.random.default_rng(1).normal(size=(64, 3, size, size)).astype(np.float32)
    models = {"onnxruntime": network, "onnxruntime_int8": quantise(network, calibration)}
    sessions = {
        way: open_session(assemble(model, module, size).SerializeToString(), threads=threads, name=way)
        for way, model in models.items()
    }
    eager = module.to(memory_format=torch.channels_last)

    def by_torch(images: np.ndarray) -> object:
        with torch.inference_mode():
            return eager(to_batch(torch.from_numpy(images))).numpy()

    ways: dict[str, Run] = {"torch": by_torch}
    ways |= {
        way: lambda images, session=session: session.run(["logits"], {"images": images})
        for way, session in sessions.items()
    }
    rates = {batch: measure(ways, batch, size, rounds) for batch in BATCHES}
    best = {way: max(rates[batch][way][0] for batch in BATCHES) for way in ways}
    work = operations(module, size)
    return {
        "images_per_second_of_processor_and_wall_time": {str(batch): found for batch, found in rates.items()},
        "against_torch": {
            "best_batch": {way: round(best[way] / best["torch"], 2) for way in sessions},
            "one_image": {way: round(rates[1][way][0] / rates[1]["torch"][0], 2) for way in sessions},
        },
        "per_core": best,
        "million_operations_a_image": round(work / 1e6, 2),
        "share_of_peak": {way: round(rate * work / top, 3) for way, rate in best.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["compact", "baseline"])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    top = peak(given.threads)
    found = {name: of(name, given.size, given.threads, given.rounds, max(top.values())) for name in given.models}
    record(
        "inference",
        {"gflops_of_matrix_products": {way: round(value / 1e9, 1) for way, value in top.items()}, "models": found},
        size=given.size,
        threads=given.threads,
        rounds=given.rounds,
    )


if __name__ == "__main__":
    main()
