"""Compile Triton kernels without a GPU, and measure the registers that they spill."""

import subprocess
import tempfile
from pathlib import Path


def compiled(kernel, types, capability, constants, **options):
    """Compile a kernel; `types` of arguments are completed: other pointers `*fp32`, other numbers `i32`."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    pointers = [name for name in kernel.arg_names if name.endswith("_ptr")]
    types = {name: types.get(name, "*fp32" if name in pointers else "i32") for name in kernel.arg_names}
    types |= dict.fromkeys(constants, "constexpr")
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in pointers}
    return compile(
        ASTSource(kernel, types, constants, aligned), target=GPUTarget("cuda", capability, 32), options=options
    )


def spilled_bytes(kernel):
    """Bytes of registers that a thread spills to memory."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        usage = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return int(usage.split("STACK:")[1].split()[0])
