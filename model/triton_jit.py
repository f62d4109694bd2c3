"""Triton's compiler for kernels of modules whose functions tests/conftest.py wraps to check shapes."""

import inspect
from collections.abc import Callable
from typing import Any

import triton


def kernel(function: Callable) -> Any:
    """Compile a kernel, or a function that kernels call; the function itself, without the wrapper of the tests."""
    return triton.jit(inspect.unwrap(function))
