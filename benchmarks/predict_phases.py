"""A process that predicts one scan again and again, and prints the seconds of each phase as JSON.

    python -m benchmarks.predict_phases MODEL SCAN OUTPUT REPEATS TIME

`benchmarks.predict` starts it at TIME (`time.time`). Phases that happen once: "start" of Python
with the imports, "restore" and "checksum" of the weights, "first scan" (with compiling, or loading
what was compiled before). Phases of every scan:
"read", "device", "measure", "write", each a list. In prediction they overlap; here they do not.
"""

import json
import sys
import time
from pathlib import Path

from mbh_jax.runtime import xla


def main(model: str, scan_path: str, output: str, repeats: int, started_s: float) -> None:
    """Predicts `1 + repeats` times."""
    from mbh_jax.imageio.readers import find_scans
    from mbh_jax.inference import results
    from mbh_jax.inference.loading import load
    from mbh_jax.training import checksums

    xla.keep_compiled_programs()
    before_s = started_s

    def lap() -> float:
        nonlocal before_s
        start_s, before_s = before_s, time.time()
        return before_s - start_s

    phases: dict[str, float | list[float]] = {"start": lap()}
    predictor = load(model)
    phases["restore"] = lap()
    made_by = {"weights": checksums.of_arrays(predictor.networks[0].variables)}
    phases["checksum"] = lap()
    (scan,) = find_scans(Path(scan_path))
    volume = scan.read()
    predictor.predict_slices(volume.hu)
    phases["first scan"] = lap()
    every: dict[str, list[float]] = {name: [] for name in ("read", "device", "measure", "write")}
    for _ in range(repeats):
        lap()
        volume = scan.read()
        every["read"].append(lap())
        found = predictor.predict_slices(volume.hu)
        every["device"].append(lap())
        prediction = predictor.describe(volume, *found)
        every["measure"].append(lap())
        results.write_results(Path(output), scan, prediction, made_by, "benchmark")
        every["write"].append(lap())
    print(json.dumps(phases | every))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5]))
