"""One contestant in a process of its own: `python -m benchmarks.worker PEER WORKLOAD`.

Builds the workload, takes a first step, and prints a JSON line of what it found. Then it takes as
many steps as each line of its standard input says, and prints the seconds they took, of the clock
and of all cores. Between them it sleeps. One more step, not counted, goes before them: a virtual
machine hands memory that a process freed back to its host within seconds of sleep, and the step
that fetches it again is slower than any step of a training that runs on.
"""

import json
import os
import resource
import sys
import time


def main(name: str, workload_json: str) -> None:
    """Runs until its standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What frameworks print must not mix with the answers.

    def answer(**fields: object) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**fields, "peak_rss_bytes": peak}), file=answers)

    from benchmarks import peers
    from benchmarks.workload import Workload

    workload = Workload.from_json(workload_json)
    start_s = time.perf_counter()
    peer = peers.build(name, workload)
    built_s = time.perf_counter()
    peer.step()
    peer.wait()
    answer(
        num_parameters=peer.num_parameters,
        loss=peer.loss,
        versions=peer.versions,
        device=peer.device,
        build_s=built_s - start_s,
        first_step_s=time.perf_counter() - built_s,
    )
    for line in sys.stdin:
        steps = int(line)
        peer.step()
        peer.wait()
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        for _ in range(steps):
            peer.step()
        peer.wait()
        answer(
            seconds=time.perf_counter() - start_s,
            cpu_seconds=time.process_time() - start_cpu_s,
            peak_device_bytes=peer.peak_device_bytes(),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
