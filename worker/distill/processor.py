"""The processor as the kernel tells of it: its name, and what of it decides the speed and the bits of a product.

Torch-free: programs ask before they load the engine.
"""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Self

CPUINFO = Path("/proc/cpuinfo")
# Names of vector and matrix instructions begin so in what the kernel tells of x86 and of Arm; it has much else there,
# and more with each of its releases.
_ARITHMETIC = {
    "flags": ("sse", "ssse", "avx", "amx", "fma", "f16c"),
    "Features": ("asimd", "sve", "sme", "bf16", "i8mm"),
}


@dataclass(frozen=True)
class Processor:
    """What is not told is empty."""

    name: str
    vendor: str
    family: str
    model: str
    instructions: tuple[str, ...]  # those that compute with vectors and matrices, by name

    @classmethod
    def here(cls, file: Path = CPUINFO) -> Self:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError:  # not Linux
            lines = []
        # Those of the last core: on one machine all are alike.
        told = {name.strip(): value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}
        instructions = {
            word
            for field, names in _ARITHMETIC.items()
            for word in told.get(field, "").split()
            if word.startswith(names)
        }
        return cls(
            name=told.get("model name", ""),
            vendor=told.get("vendor_id") or told.get("CPU implementer", ""),
            family=told.get("cpu family") or told.get("CPU architecture", ""),
            model=told.get("model") or told.get("CPU part", ""),
            instructions=tuple(sorted(instructions)),
        )

    @property
    def title(self) -> str:
        return self.name or platform.processor() or platform.machine()

    @property
    def kind(self) -> str:
        """What libraries choose their kernels by: virtual machines of one name differ in it, and so in their bits."""
        return f"{self.vendor} {self.family}/{self.model}: {' '.join(self.instructions)}"

    @property
    def has_fast_bf16(self) -> bool:
        """Whether products in bf16 take less time than in fp32.

        With AMX they do by far, and by AVX-512 on AMD's. Intel's processors of today have AMX, and where a hypervisor
        hides it, what is left of bf16 in AVX-512 took twice the time of fp32 (Emerald Rapids, two cores).
        """
        if "amx_bf16" in self.instructions:
            return True
        return "avx512_bf16" in self.instructions and self.vendor != "GenuineIntel"
