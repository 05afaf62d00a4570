"""What Triton's compiler makes of the kernels, for a card that need not be here.

Registers, spills and shared memory are those of the assembled code; how many warps of a
multiprocessor they leave is worked out from the card's own limits.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from convgraph.backends.fused import triton_launch

CAPABILITIES = (80, 90)
REGISTERS, WARPS, BLOCKS = 65_536, 64, 32
"""Of a multiprocessor, for both (NVIDIA's programming guide, table of compute capabilities)."""
SHARED = {80: 164 * 2**10, 90: 228 * 2**10}
"""Bytes of shared memory of a multiprocessor; each block takes one KiB of it for itself."""
RESERVED = 2**10


@dataclass(frozen=True)
class Assembled:
    """One kernel for one card.

    Attributes:
        ptx: the code before assembly.
        registers: of a thread.
        spilled: bytes of a thread's registers that went to memory.
        shared: bytes of a block.
        warps: of a block.
        capability: 80 or 90.
    """

    ptx: str
    registers: int
    spilled: int
    shared: int
    warps: int
    capability: int

    @property
    def blocks(self) -> int:
        """How many blocks a multiprocessor holds at a time."""
        by_registers = REGISTERS // (-(-self.registers // 8) * 8 * 32 * self.warps)
        by_shared = SHARED[self.capability] // (self.shared + RESERVED)
        return min(by_registers, by_shared, WARPS // self.warps, BLOCKS)

    @property
    def occupancy(self) -> float:
        """Share of the warps that a multiprocessor can hold."""
        return self.blocks * self.warps / WARPS


def assembled(
    name: str, dtype: str, capability: int, constants: dict[str, Any], warps: int = 8
) -> Assembled:
    """Compile and assemble a kernel; pointers are aligned to 16 bytes, as torch's are."""
    compiler = import_module("triton.compiler")
    target = import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    kernel = getattr(import_module("convgraph.backends.fused.triton_kernels"), name)
    kinds = dict.fromkeys(("table", "order", "kind"), "*i32") | {"parts": "*fp32"}
    kinds |= dict.fromkeys(("num_rows", "num_slots", "chunk"), "i32")
    signature = {
        arg: "constexpr" if arg in constants else kinds.get(arg, f"*{dtype}")
        for arg in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, arg in enumerate(kernel.arg_names)
        if signature[arg].startswith("*")
    }
    source = compiler.ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": warps, **triton_launch.FUSED}
    made = compiler.compile(source, target=target, options=options)
    used = _usage(made.asm["cubin"])
    return Assembled(
        ptx=str(made.asm["ptx"]), registers=used["REG"], spilled=used["STACK"] + used["LOCAL"],
        shared=int(made.metadata.shared), warps=warps, capability=capability,
    )  # fmt: skip


def _usage(cubin: bytes) -> dict[str, int]:
    """What the assembler says that the code takes, by the tool that comes with Triton."""
    tool = Path(import_module("triton").__file__).parent / "backends/nvidia/bin/cuobjdump"  # type: ignore[arg-type]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    said = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", run.stdout + run.stderr)
    assert said, run.stdout + run.stderr
    return dict(zip(("REG", "STACK", "LOCAL"), map(int, said.groups()), strict=True))


def launches(dtype: str, channels: int, precision: str, groups: int = 1) -> dict[str, Any]:
    """The constants with which a layer launches its kernels, and the warps of each.

    Args:
        dtype: "bf16", "fp16" or "fp32".
        channels: of the input and of the output, of all groups together.
        precision: "tf32" or "ieee".
        groups: as many as channels is depthwise.
    """
    itemsize = 4 if dtype == "fp32" else 2
    if groups == channels:
        wide = triton_launch.half_block(channels)
        one = {"C": channels, "BN": wide}
        return {
            "send_depthwise": ({**one, "HAS_BIAS": True, "BM": 64}, 4),
            "correlate_depthwise": ({**one, "TAPS": 49, "BM": 32}, 4),
        }
    each = channels // groups
    b = triton_launch.blocks(each, each, itemsize)
    both = {
        "GROUPS": groups, "CI": each, "CO": each, "BN": b.outer, "PRECISION": precision,
        "WIDEN": False,
    }  # fmt: skip
    high = triton_launch.half_block(each)
    return {
        "send": ({**both, "HAS_BIAS": True, "BM": b.rows, "BK": b.inner}, b.warps),
        "correlate": ({**both, "TAPS": 9, "BI": high, "BM": 128 // itemsize}, 4),
    }
