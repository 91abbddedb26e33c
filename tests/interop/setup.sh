#!/usr/bin/env bash
# Installs the real clients the interop tests run against: tests/interop/setup.sh   (Debian, root)
# aria2, transmission-daemon, nodejs and iproute2 come from apt; libtorrent as a wheel into a venv of its own and
# bittorrent-dht by npm, both below $DHTGET_INTEROP_HOME (default ~/.cache/dhtget-interop). Run again, it does nothing
# when all is there.
set -euo pipefail

home=${DHTGET_INTEROP_HOME:-$HOME/.cache/dhtget-interop}
libtorrent=2.1.1
bittorrent_dht=11.0.12
python=$home/venv/bin/python

missing=()
command -v aria2c >/dev/null || missing+=(aria2)
command -v transmission-daemon >/dev/null || missing+=(transmission-daemon)
command -v ip >/dev/null && command -v ss >/dev/null || missing+=(iproute2)
command -v node >/dev/null || missing+=(nodejs)
bittorrent_dht_there() { grep -q "\"version\": \"$bittorrent_dht\"" "$home/node/node_modules/bittorrent-dht/package.json" 2>/dev/null; }
# npm brings hundreds of packages: only where it has something to fetch.
bittorrent_dht_there || command -v npm >/dev/null || missing+=(npm)
command -v setpriv >/dev/null || missing+=(util-linux)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q </dev/null >/dev/null
  # The package would start a daemon of its own; the tests start theirs.
  RUNLEVEL=1 apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null >/dev/null
fi

has_libtorrent() { "$python" -W ignore -c "import libtorrent, sys; sys.exit(not libtorrent.__version__.startswith('$libtorrent'))" 2>/dev/null; }
if ! has_libtorrent; then
  mkdir -p "$home"
  [ -x "$python" ] || python3 -m venv "$home/venv"
  "$python" -m pip install -q --disable-pip-version-check "libtorrent==$libtorrent" </dev/null
  has_libtorrent || { echo "setup.sh: libtorrent $libtorrent does not load in $home/venv" >&2; exit 1; }
fi
if ! bittorrent_dht_there; then
  mkdir -p "$home/node"
  npm install --prefix "$home/node" --ignore-scripts --no-audit --no-fund --loglevel=error "bittorrent-dht@$bittorrent_dht" </dev/null
  bittorrent_dht_there || { echo "setup.sh: bittorrent-dht $bittorrent_dht is not in $home/node" >&2; exit 1; }
fi
echo "interop clients ready: $(aria2c --version | head -n1), $(transmission-daemon -V 2>&1 | head -n1), libtorrent $libtorrent and bittorrent-dht $bittorrent_dht in $home"
