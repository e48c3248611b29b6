"""What a measurement was made on and with. Names no host and no path."""

from __future__ import annotations

import datetime
import platform
import subprocess
from pathlib import Path

import numpy as np
from roof import processors

import clstm


def describe(libraries: dict[str, str]) -> dict[str, str]:
    """Processor, system, versions and date, as text by name."""
    cpu = clstm.cpu_info()
    versions = {**libraries, "numpy": np.__version__, "Python": platform.python_version()}
    return {
        "Processor": f"{_processor()}, {processors()} usable",
        "Kernels": f"{cpu['isa']} ({cpu['reason'].rstrip('.')})",
        "System": f"{platform.system()} {platform.machine()}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    """The processor's name, with x86's family and model, since virtual machines shorten names."""
    if platform.system() == "Darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    lines = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines}
    if "model name" not in fields:
        return platform.machine()
    return f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"
