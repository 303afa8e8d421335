#!/usr/bin/python3
"""One host with many idle TPMs: what each of them costs, and what a command costs among them.

    scale.py BUILD_DIR COUNT...

Prints lines of "name TAB unit TAB value TAB - TAB -" for each count; the instances of a smaller one stay for the next.
Each is created by vtpmd, brought up with TPM2_Startup and one TPM2_GetRandom, and left alone.
"""

import os
import sys
import time

sys.dont_write_bytecode = True

from support import median, timed  # noqa: E402

from harness import Daemon  # noqa: E402
from tpm import digest  # noqa: E402

SAMPLES, MEMORY_SAMPLES = 300, 20
NV_INDEX = 0x01800020


def memory_of(pids):
    """(PSS, private) in KiB of the processes together; secret memory counts as private."""
    pss = private = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name == "Pss":
                    pss += int(rest.split()[0])
                elif name in ("Private_Clean", "Private_Dirty"):
                    private += int(rest.split()[0])
    return pss, private


def row(name, count, unit, value):
    print(f"{name}, {count} instances\t{unit}\t{value}\t-\t-", flush=True)


def create(daemon, number, instances):
    """A new TPM, used once, and the time until its first response."""
    begin = time.perf_counter()
    instance = daemon.create(f"vm{number:03}")
    client = instance.connect()
    client.startup()
    took = time.perf_counter() - begin
    client.get_random(32)
    client.close()
    instances.append(instance)
    return took


def measure(daemon, instances, count):
    took = [create(daemon, number, instances) for number in range(len(instances), count)]
    row("create to first response, p50", count, "ms", f"{median(took) * 1e3:.1f}")
    row("create to first response, slowest", count, "ms", f"{max(took) * 1e3:.1f}")
    step = max(1, count // MEMORY_SAMPLES)
    memory = [memory_of([instance.keeper(), instance.worker()]) for instance in instances[::step]]
    row("PSS of keeper and worker", count, "KiB", round(sum(pss for pss, _ in memory) / len(memory)))
    row("private memory of keeper and worker", count, "KiB", round(sum(private for _, private in memory) / len(memory)))
    pid = daemon.process.pid
    row("vtpmd, PSS", count, "KiB", memory_of([pid])[0])
    row("vtpmd, descriptors", count, "", len(os.listdir(f"/proc/{pid}/fd")))
    row("vtpm-cpu, PSS", count, "KiB", memory_of([daemon.cpu.pid])[0])
    client = instances[count // 2].connect()
    client.startup()
    row("GetRandom 32, p50", count, "us", f"{median([timed(lambda: client.get_random(32)) for _ in range(SAMPLES)]) * 1e6:.1f}")
    row("PCR_Extend, p50", count, "us",
        f"{median([timed(lambda: client.pcr_extend(16, digest(b'scale'))) for _ in range(SAMPLES)]) * 1e6:.1f}")
    client.nv_define(NV_INDEX, 8)
    row("NV_Write 8, p50", count, "us",
        f"{median([timed(lambda n=n: client.nv_write(NV_INDEX, n.to_bytes(8, 'big'))) for n in range(SAMPLES // 3)]) * 1e6:.1f}")
    client.nv_undefine(NV_INDEX)
    client.close()
    row("list", count, "ms", f"{timed(lambda: daemon.call('list')) * 1e3:.1f}")

    def again():
        daemon.restart()
        instances[-1].wait_serving(60)

    row("vtpmd restarted, the last one serves", count, "ms", f"{timed(again) * 1e3:.1f}")


def main():
    daemon, instances = Daemon(), []
    for count in sorted(map(int, sys.argv[2:])):
        measure(daemon, instances, count)
    daemon.end()


if __name__ == "__main__":
    main()
