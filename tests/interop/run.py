#!/usr/bin/env python3
"""dhtget among real clients: run.py [-k SUBSTRING] [-j JOBS] [--keep] [--list]

Needs root, and what setup.sh installs. The binary is $DHTGET, else target/release/dhtget.
Prints a line a case and, last, "N passed, N failed"; ends with 1 when a case failed or a program is missing.
"""

import sys

sys.dont_write_bytecode = True
from runner import Suite

SUITE_SECONDS = 600


def main():
    suite = Suite(__file__, __doc__, jobs=8, seconds=SUITE_SECONDS)
    import dht_cases  # noqa: F401  (their cases come behind the others)
    import file_cases  # noqa: F401
    import shape_cases  # noqa: F401
    from cases import CASES
    from clients import missing_programs
    chosen = suite.choose(CASES, missing_programs())
    from lab import Lab
    lab = Lab(suite.options.keep)
    suite.close = lab.close

    def begin():
        """The shared DHT is started here: its parent thread outlives every case."""
        from dht import LibtorrentDht
        lab.shared_dht = LibtorrentDht(lab, "shared-dht").wait_ready()

    def case(one):
        """Afterwards none of the case's processes is left."""
        try:
            one(lab, one.__name__)
        finally:
            lab.end_of(one.__name__)

    suite.run(chosen, begin, case)


if __name__ == "__main__":
    sys.exit(main())
