#!/usr/bin/env python3
"""Private networks among machines, as people use them: run.py [-k SUBSTRING] [-j JOBS] [--keep] [--list]

Each machine is a network namespace with an address, a HOME and a cable of its own (tests/interop/machines.py). Needs root, and
what tests/interop/setup.sh installs. The binary is $DHTGET, else target/release/dhtget.
Prints a line a case and, last, "N passed, N failed"; ends with 1 when a case failed.
"""

import argparse
import concurrent.futures
import os
import signal
import sys
import time
import traceback

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
HOME = os.environ.get("DHTGET_INTEROP_HOME") or os.path.expanduser("~/.cache/dhtget-interop")
PYTHON = f"{HOME}/venv/bin/python"
SUITE_SECONDS = 300
sys.path.insert(0, f"{HERE}/../interop")


def main():
    options = arguments()
    use_the_venv()
    import lan_cases  # noqa: F401
    from private_cases import CASES
    chosen = [c for c in CASES if not options.k or options.k in c.__name__]
    if options.list:
        for one in CASES:
            print(f"{one.__name__:28} {one.__doc__.splitlines()[0]}")
        return 0
    from office import DHTGET
    if not os.access(DHTGET, os.X_OK) or not chosen:
        what = f"no case is called like {options.k!r}" if not chosen else f"no dhtget at {DHTGET}"
        print(f"error: {what}\n\nhint: cargo build --release makes dhtget", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: leave(128 + n))
    signal.signal(signal.SIGALRM, lambda *_: (print(f"error: not done after {SUITE_SECONDS} s", flush=True), leave(1)))
    signal.alarm(SUITE_SECONDS)
    failed = run_all(chosen, options)
    print(f"{len(chosen) - failed} passed, {failed} failed", flush=True)
    os._exit(1 if failed else 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", metavar="SUBSTRING", help="only cases whose name contains it")
    parser.add_argument("-j", dest="jobs", type=int, default=4, metavar="JOBS", help="cases at once (4): they mostly wait")
    parser.add_argument("--keep", action="store_true", help="keep the machines' folders")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    return parser.parse_args()


def use_the_venv():
    """Goes on under the python that has libtorrent, whichever started this."""
    if os.path.exists(PYTHON) and os.path.realpath(sys.prefix) != os.path.realpath(f"{HOME}/venv"):
        os.execv(PYTHON, [PYTHON, "-B", "-W", "ignore", os.path.abspath(__file__), *sys.argv[1:]])


def leave(code):
    """Processes die with us; what is left of the namespaces goes here."""
    from machines import Machines
    for network in list(Machines.open):
        network.close()
    os._exit(code)


def run_all(chosen, options):
    failed = 0
    pool = concurrent.futures.ThreadPoolExecutor(options.jobs)
    running = {pool.submit(run_one, one, options.keep): one for one in chosen}
    for future in concurrent.futures.as_completed(running):
        seconds, failure = future.result()
        name = running[future].__name__
        print(f"{'FAIL' if failure else 'ok  '} {name:32} {seconds:6.1f} s", flush=True)
        if failure:
            failed += 1
            print("  " + failure.replace("\n", "\n  "), flush=True)
    return failed


def run_one(one, keep):
    """(seconds, what went wrong or None); afterwards none of the case's processes and machines is left."""
    from lab import Failed
    from machines import Machines
    started, failure = time.monotonic(), None
    network = Machines(keep=keep)
    try:
        one(network)
    except Failed as error:
        failure = str(error)
    except Exception:
        failure = traceback.format_exc()
    network.close()
    return time.monotonic() - started, failure


if __name__ == "__main__":
    sys.exit(main())
