"""Takes the place of a virtual environment's Python: records how it was called, then ends.

STAND_IN is a folder. Every call adds the file call-<process>.json there, with its arguments and
environment. The file plan.json there says how each process ends, by its number: `{"exit": 7}` ends
with 7; `{"sigterm": 75}` waits for SIGTERM and ends with 75, `{"sigterm": null}` ignores SIGTERM.
Processes that are not in the file end with 0.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    if sys.argv[1] == "-c":
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    folder = Path(os.environ["STAND_IN"])
    ids = [flag.split("=")[1] for flag in sys.argv if flag.startswith("--process_id=")]
    process = (ids or [os.environ.get("SLURM_PROCID", "0")])[0]
    plan = json.loads((folder / "plan.json").read_text()).get(process, {"exit": 0})
    sigterms: list[int] = []
    if "sigterm" in plan:
        signal.signal(signal.SIGTERM, lambda number, _: sigterms.append(number))
    call = {"arguments": sys.argv[1:], "environment": dict(os.environ), "pid": os.getpid()}
    path = folder / f"call-{process}.json"
    path.with_suffix(".tmp").write_text(json.dumps(call))
    path.with_suffix(".tmp").rename(path)
    if "exit" in plan:
        return int(plan["exit"])
    while not sigterms or plan["sigterm"] is None:
        time.sleep(0.05)
    time.sleep(1)  # A second SIGTERM would come by now.
    return int(plan["sigterm"]) if len(sigterms) == 1 else 99


if __name__ == "__main__":
    sys.exit(main())
