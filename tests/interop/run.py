#!/usr/bin/env python3
"""dhtget among real clients: run.py [-k SUBSTRING] [-j JOBS] [--keep] [--list]

Needs root, and what setup.sh installs. The binary is $DHTGET, else target/release/dhtget.
Prints a line a case and, last, "N passed, N failed"; ends with 1 when a case failed or a program is missing.
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
SUITE_SECONDS = 600


def main():
    options = arguments()
    use_the_venv()
    import dht_cases  # noqa: F401  (their cases come behind the others)
    import file_cases  # noqa: F401
    from cases import CASES
    chosen = [c for c in CASES if not options.k or options.k in c.__name__]
    if options.list:
        for one in CASES:
            print(f"{one.__name__:28} {one.__doc__}")
        return 0
    from clients import missing_programs
    missing = missing_programs()
    if missing or not chosen:
        for sentence in missing or [f"no case is called like {options.k!r}"]:
            print(f"error: {sentence}", file=sys.stderr)
        print("\nhint: tests/interop/setup.sh installs the clients, cargo build --release makes dhtget", file=sys.stderr)
        return 1
    from lab import Lab
    lab = Lab(options.keep)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: leave(lab, 128 + n))
    signal.signal(signal.SIGALRM, lambda *_: (print(f"error: not done after {SUITE_SECONDS} s", flush=True), leave(lab, 1)))
    signal.alarm(SUITE_SECONDS)
    try:
        failed = run_all(lab, chosen, options.jobs)
    except BaseException:
        traceback.print_exc()
        leave(lab, 1)
    lab.close()
    print(f"{len(chosen) - failed} passed, {failed} failed", flush=True)
    os._exit(1 if failed else 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", metavar="SUBSTRING", help="only cases whose name contains it")
    parser.add_argument("-j", dest="jobs", type=int, default=8, metavar="JOBS", help="cases at once (8): they mostly wait")
    parser.add_argument("--keep", action="store_true", help="keep the work folders")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    return parser.parse_args()


def use_the_venv():
    """Goes on under the python that has libtorrent, whichever started this."""
    if os.path.exists(PYTHON) and os.path.realpath(sys.prefix) != os.path.realpath(f"{HOME}/venv"):
        os.execv(PYTHON, [PYTHON, "-B", "-W", "ignore", os.path.abspath(__file__), *sys.argv[1:]])


def leave(lab, code):
    lab.close()
    os._exit(code)


def run_all(lab, chosen, jobs):
    """Returns how many failed. The shared DHT is started here: its parent thread outlives every case."""
    from dht import LibtorrentDht
    lab.shared_dht = LibtorrentDht(lab, "shared-dht").wait_ready()
    failed = 0
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    running = {pool.submit(run_one, lab, one): one for one in chosen}
    for future in concurrent.futures.as_completed(running):
        seconds, failure = future.result()
        name = running[future].__name__
        print(f"{'FAIL' if failure else 'ok  '} {name:28} {seconds:6.1f} s", flush=True)
        if failure:
            failed += 1
            print("  " + failure.replace("\n", "\n  "), flush=True)
    return failed


def run_one(lab, one):
    """(seconds, what went wrong or None); afterwards none of the case's processes is left."""
    from lab import Failed
    started = time.monotonic()
    failure = None
    try:
        one(lab, one.__name__)
    except Failed as error:
        failure = str(error)
    except Exception:
        failure = traceback.format_exc()
    lab.end_of(one.__name__)
    return time.monotonic() - started, failure


if __name__ == "__main__":
    sys.exit(main())
