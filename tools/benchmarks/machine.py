"""What a benchmark ran on."""

import platform
from pathlib import Path

from captioner.cores import num_cores

_TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "bf16", "i8mm")


def hardware() -> dict:
    """Processor, cores that this process may use, instructions that matter, memory in GB of 10^9 bytes."""
    lines = _read("/proc/cpuinfo").splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    memory = [line.split()[1] for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal")]
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "num_cores": num_cores(),
        "instructions": [flag for flag in _TELLING_FLAGS if flag in flags],
        "memory_gb": round(int(memory[0]) * 1024 / 1e9, 1) if memory else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
