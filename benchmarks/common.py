"""Shared by the benchmarks: a description of the machine, statistics, tables and JSON."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Spread(NamedTuple):
    """Median, smallest and largest of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """The spread of at least one value."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def processor() -> str:
    """Name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Date, processor, memory, system and load average, to be written with every result."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": num_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def describe_machine(found: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """What `machine` found, and versions of packages, as one line of text."""
    packages = "".join(f", {name} {version}" for name, version in sorted(versions.items()))
    return (
        f"{found['date']}; {found['cores']} cores of {found['processor']}, {found['memory_gib']} "
        f"GiB, {found['system']}; load average {found['load_average']:.1f} before the start; "
        f"Python {found['python']}{packages}"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_json(path: Path | None, result: Mapping[str, Any]) -> None:
    """Writes a benchmark's result to the path that `--json` gave, or nowhere if it is None."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(f"\nwrote {path}")


def versions(*packages: str) -> dict[str, str]:
    """{package: version} of installed packages."""
    return {name: importlib.metadata.version(_distribution(name)) for name in packages}


def _distribution(package: str) -> str:
    """The distribution that holds a package: TensorFlow's is `tensorflow` or `tensorflow-cpu`."""
    installed = importlib.metadata.packages_distributions()
    return installed.get(package, [package])[0]


def integers(text: str) -> list[int]:
    """Argument type: integers separated by commas, such as "128,256"."""
    return [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """Argument type: names separated by commas, such as "ours,torch"."""
    return text.split(",")
