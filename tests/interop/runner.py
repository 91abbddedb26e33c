"""What every suite of cases here does: its options, the python that has libtorrent, cases side by side, a line for each, and an
end that leaves nothing behind. Owns no knowledge of what a case is given.
"""

import argparse
import concurrent.futures
import os
import signal
import sys
import time
import traceback

HOME = os.environ.get("DHTGET_INTEROP_HOME") or os.path.expanduser("~/.cache/dhtget-interop")
PYTHON = f"{HOME}/venv/bin/python"


class Suite:
    """One call of a suite. `close` undoes what the suite has set up, whenever it ends."""

    def __init__(self, script, doc, jobs, seconds):
        parser = argparse.ArgumentParser(description=doc.splitlines()[0])
        parser.add_argument("-k", metavar="SUBSTRING", help="only cases whose name contains it")
        parser.add_argument("-j", dest="jobs", type=int, default=jobs, metavar="JOBS",
                            help=f"cases at once ({jobs}): they mostly wait")
        parser.add_argument("--keep", action="store_true", help="keep the work folders")
        parser.add_argument("--list", action="store_true", help="name the cases and stop")
        self.options, self.seconds, self.close = parser.parse_args(), seconds, lambda: None
        # Goes on under the python that has libtorrent, whichever started this.
        if os.path.exists(PYTHON) and os.path.realpath(sys.prefix) != os.path.realpath(f"{HOME}/venv"):
            os.execv(PYTHON, [PYTHON, "-B", "-W", "ignore", os.path.abspath(script), *sys.argv[1:]])

    def choose(self, cases, missing):
        """The cases asked for; ends here where they are only listed, or something is missing (sentences)."""
        chosen = [c for c in cases if not self.options.k or self.options.k in c.__name__]
        if self.options.list:
            for one in cases:
                print(f"{one.__name__:32} {one.__doc__.splitlines()[0]}")
            sys.exit(0)
        for sentence in missing or ([] if chosen else [f"no case is called like {self.options.k!r}"]):
            print(f"error: {sentence}", file=sys.stderr)
        if missing or not chosen:
            hint = "tests/interop/setup.sh installs the clients, cargo build --release makes dhtget"
            print(f"\nhint: {hint}", file=sys.stderr)
            sys.exit(1)
        return chosen

    def run(self, chosen, begin, case):
        """Calls `begin()`, then `case(one)` for each, side by side; prints what came of them, and ends the process."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda n, _: self._leave(128 + n))
        signal.signal(signal.SIGALRM, lambda *_: (print(f"error: not done after {self.seconds} s", flush=True), self._leave(1)))
        signal.alarm(self.seconds)
        try:
            begin()
            failed = self._run_all(chosen, case)
        except BaseException:
            traceback.print_exc()
            self._leave(1)
        self.close()
        print(f"{len(chosen) - failed} passed, {failed} failed", flush=True)
        # Threads that still wait for something must not hold up the end.
        os._exit(1 if failed else 0)

    def _leave(self, code):
        self.close()
        os._exit(code)

    def _run_all(self, chosen, case):
        failed = 0
        pool = concurrent.futures.ThreadPoolExecutor(self.options.jobs)
        running = {pool.submit(_outcome, case, one): one for one in chosen}
        for future in concurrent.futures.as_completed(running):
            seconds, failure = future.result()
            name = running[future].__name__
            print(f"{'FAIL' if failure else 'ok  '} {name:32} {seconds:6.1f} s", flush=True)
            if failure:
                failed += 1
                print("  " + failure.replace("\n", "\n  "), flush=True)
        return failed


def _outcome(case, one):
    """(seconds, what went wrong or None)"""
    from lab import Failed
    started, failure = time.monotonic(), None
    try:
        case(one)
    except Failed as error:
        failure = str(error)
    except Exception:
        failure = traceback.format_exc()
    return time.monotonic() - started, failure
