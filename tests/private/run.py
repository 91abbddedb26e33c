#!/usr/bin/env python3
"""Private networks among machines, as people use them: run.py [-k SUBSTRING] [-j JOBS] [--keep] [--list]

Each machine is a network namespace with an address, a HOME and a cable of its own (tests/interop/machines.py). Needs root, and
what tests/interop/setup.sh installs. The binary is $DHTGET, else target/release/dhtget.
Prints a line a case and, last, "N passed, N failed"; ends with 1 when a case failed.
"""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, f"{os.path.dirname(os.path.abspath(__file__))}/../interop")
from runner import Suite

SUITE_SECONDS = 300


def main():
    suite = Suite(__file__, __doc__, jobs=4, seconds=SUITE_SECONDS)
    import lan_cases  # noqa: F401  (their cases come behind the others)
    from machines import Machines
    from office import DHTGET
    from private_cases import CASES
    chosen = suite.choose(CASES, [] if os.access(DHTGET, os.X_OK) else [f"no dhtget at {DHTGET}"])
    # Processes die with us; what is left of the namespaces goes here.
    suite.close = lambda: [network.close() for network in list(Machines.open)]

    def case(one):
        """Afterwards none of the case's processes and machines is left."""
        with Machines(keep=suite.options.keep) as network:
            one(network)

    suite.run(chosen, lambda: None, case)


if __name__ == "__main__":
    sys.exit(main())
