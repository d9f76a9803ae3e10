"""A process that runs one implementation: `python -m benchmarks.worker IMPLEMENTATION WORKLOAD`.

It builds the workload, runs a first step, and prints what it found as a line of JSON. Then it reads
a number of steps from each line of its standard input, runs them, and prints the seconds that they
took by the clock and on all cores. It sleeps while it waits for a line. One step that is not
counted comes before the timed ones: a virtual machine returns freed memory to its host within
seconds, so the first step after a sleep is slower than the steps of a running training.
"""

import json
import os
import resource
import sys
import time


def main(name: str, workload_json: str) -> None:
    """Runs until its standard input ends.

    Args:
        name: a key of `benchmarks.baselines.IMPLEMENTATIONS`.
        workload_json: a line of `Workload.to_json`.
    """
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What frameworks print must not mix with the reports.

    def report(**fields: object) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**fields, "peak_rss_bytes": peak}), file=reports)

    from benchmarks import baselines
    from benchmarks.workload import Workload

    workload = Workload.from_json(workload_json)
    start_s = time.perf_counter()
    implementation = baselines.build(name, workload)
    built_s = time.perf_counter()
    implementation.step()
    implementation.wait()
    report(
        num_parameters=implementation.num_parameters,
        loss=implementation.loss,
        versions=implementation.versions,
        device=implementation.device,
        build_s=built_s - start_s,
        first_step_s=time.perf_counter() - built_s,
    )
    for line in sys.stdin:
        steps = int(line)
        implementation.step()
        implementation.wait()
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        for _ in range(steps):
            implementation.step()
        implementation.wait()
        report(
            seconds=time.perf_counter() - start_s,
            cpu_seconds=time.process_time() - start_cpu_s,
            peak_device_bytes=implementation.peak_device_bytes(),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
