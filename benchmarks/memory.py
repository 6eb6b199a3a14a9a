"""Memory: what a bundle really takes, beside what `edgert fit` predicts; loads under limits.

    python benchmarks/memory.py BUNDLE --context 1024 --limits 1,2,4

Each row is a process of its own that loads the bundle, fills its context and decodes a token; --limits, in
GiB, put it into a control group. With --prepared the packed copy is made first and removed at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import control_group

from edgert import devices
from edgert.bundle import MACHINE, open_bundle
from edgert.engine import memory
from edgert.engine.loading import choose_graph
from edgert.engine.prepared import Prepared

WORK = """
import json, re, sys, time, edgert
start = time.perf_counter()
model = edgert.load(sys.argv[1], device=sys.argv[2], context=int(sys.argv[3]))
loaded = time.perf_counter() - start
def resident(kind):
    return int(re.search(kind + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
after_load = resident("RssAnon")
model.generate([token % 1000 for token in range(int(sys.argv[3]) - 4)], max_tokens=2)
found = {"load": loaded, "loaded": after_load, "anonymous": resident("RssAnon"), "peak": resident("VmHWM")}
print(json.dumps(found))
"""


def measure(folder: Path, device: str, context: int, limit: int | None) -> str:
    command = [sys.executable, "-W", "ignore", "-c", WORK, str(folder), device, str(context)]
    if limit is None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    else:
        done = control_group.run(command, limit)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"killed ({done.returncode})"])[-1]
    found = json.loads(done.stdout)
    sizes = "  ".join(f"{name} {found[name] / 1e6:7,.0f} MB" for name in ("loaded", "anonymous", "peak"))
    return f"load {found['load']:4.1f} s  {sizes}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--device", default="laptop-cpu")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--limits", default="", help="GiB, separated by commas")
    parser.add_argument("--prepared", action="store_true")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()

    bundle, profile = open_bundle(options.bundle), devices.load(options.device)
    graph = choose_graph(bundle, profile, None)
    if options.prepared:
        Prepared(bundle, graph).make()
    facts = bundle.manifest.graphs[graph]
    plan = memory.plan(
        bundle.manifest, facts, profile, options.context, prepared=options.prepared, machine=devices.here()
    )
    print(f"{bundle.manifest.name} on {profile.name}, context {options.context}")
    print(f"predicted    total {plan.total / 1e6:,.0f} MB, peak {plan.peak / 1e6:,.0f} MB")
    for _ in range(options.runs):
        print(f"no limit     {measure(options.bundle, options.device, options.context, None)}", flush=True)
    for limit in filter(None, options.limits.split(",")):
        found = measure(options.bundle, options.device, options.context, int(float(limit) * (1 << 30)))
        print(f"{limit + ' GiB':12} {found}", flush=True)
    if options.prepared:
        shutil.rmtree(bundle.path(MACHINE))


if __name__ == "__main__":
    main()
