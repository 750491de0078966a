"""A command as in the container: not root, without capabilities, on a root filesystem that is read-only and
holds nothing but what the program needs. Needs root and mount namespaces of Linux."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

UID = 10001
VOLUME = "/var/lib/opportune"

# The root is made in a mount namespace of its own, which goes with the process.
_SCRIPT = """
set -e
root=$1 volume=$2 mode=$3; shift 3
mount -t tmpfs -o mode=755 tmpfs "$root"
while [ "$1" != -- ]; do
    mkdir -p "$root$1"
    mount --bind "$1" "$root$1"
    mount -o remount,bind,ro "$root$1"
    shift
done
shift
mkdir -p "$root/proc" "$root/var/lib/opportune"
mount -t proc proc "$root/proc"
mount --bind "$volume" "$root/var/lib/opportune"
mount -o "remount,bind,$mode" "$root/var/lib/opportune"
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all \\
    --inh-caps=-all env --chdir=/var/lib/opportune "$@"
"""


def within(root: Path, volume: Path, *, writable: bool = True) -> list[str]:
    """What to put before a command. `root`: an empty directory; `volume` becomes `VOLUME`."""
    prefixes = (Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2])
    shown = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/dev", *map(str, dict.fromkeys(prefixes))]
    there = [each for each in shown if Path(each).exists()]
    mode = "rw" if writable else "ro"
    return ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", str(root), str(volume), mode, *there, "--"]


def impossible(root: Path, volume: Path) -> str:
    """Why this machine cannot confine a command so; "" if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a root filesystem can be made read-only by root on Linux only"
    tried: Sequence[str] = [*within(root, volume), "true"]
    done = subprocess.run(tried, capture_output=True, text=True, check=False)
    return f"this machine cannot: {done.stderr.strip()}" if done.returncode else ""
