"""Where the programs are that the comparisons start: ours, and what tests/interop/setup.sh installs."""

import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOME = os.environ.get("DHTGET_INTEROP_HOME") or os.path.expanduser("~/.cache/dhtget-interop")
PYTHON = f"{HOME}/venv/bin/python"
DHTGET = os.environ.get("DHTGET") or f"{ROOT}/target/release/dhtget"
FLOOD = os.environ.get("DHT_FLOOD") or f"{ROOT}/target/release/examples/dht_flood"
