"""Thread counts, deterministic kernels, full float32: what a cell's last digits depend on, held fast."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from stillscape._errors import RunError
from stillscape.experiments.devices import full_float32
from stillscape.experiments.plan import Plan

NO_KERNEL = "does not have a deterministic implementation"  # PyTorch's own words
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_VALUE = ":4096:8"  # one of two that NVIDIA names as reproducible; read when cuBLAS starts


@contextmanager
def plans_settings(plan: Plan) -> Iterator[None]:
    """Compute inside the block at the plan's thread count, and by deterministic kernels if it asks for them."""
    with thread_count(plan.threads), deterministic(plan.deterministic), full_float32():
        yield


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """Run torch, BLAS and OpenMP at `count` threads inside the block, and as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(limits=count):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch use only kernels that give the same bits each time inside the block, if `wanted`.

    Raises:
        RunError: if an operation has none; it is named.
    """
    if not wanted:
        yield
        return
    ready_cublas()
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if NO_KERNEL not in str(error):
            raise
        operation = str(error).partition(NO_KERNEL)[0].strip()
        raise RunError(
            f"deterministic is asked for, and {operation} has no kernel that repeats to the bit on this device; all "
            "that is recorded is kept. Leave it out, or compute on another device, in another run folder."
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = flags


def ready_cublas() -> str:
    """Set the variable that cuBLAS must find at its start to be deterministic, and return what is to be said of it."""
    if os.environ.get(CUBLAS):
        return ""
    os.environ[CUBLAS] = CUBLAS_VALUE
    return f"{CUBLAS} is set to {CUBLAS_VALUE}, so that products of matrices on a GPU repeat to the bit"
