"""Flower's configuration file, which `celery -A APP partitions flower` passes to Flower. It also adds our pages.

Flower shows messages and results, and can stop workers and revoke tasks. So it must listen on this machine only or have a login;
otherwise it refuses to start. Flower runs this file after it has read the environment (`FLOWER_…`) and the command line. The command
line has precedence over this file.
"""

import ipaddress
import sys

from tornado.options import options

from celery_partitions.dashboard import add_to_flower

#: Flower keeps each task that it saw (about 4 KB). Partition workers sample their events, so this covers minutes of work.
max_tasks = 10_000
#: By default Flower listens on this machine only.
address = options.address or "127.0.0.1"


def _reaches_only_this_machine(place: str) -> bool:
    try:
        return ipaddress.ip_address(place).is_loopback
    except ValueError:
        return place == "localhost"


# An empty address on the command line means all networks, as in Flower itself.
_place = "" if "address=" in [_word.lstrip("-") for _word in sys.argv] else address
if not (options.basic_auth or options.auth or options.unix_socket or _reaches_only_this_machine(_place)):
    raise SystemExit(
        f"Flower does not start: it would listen on {_place or 'all networks'} without a login, so anyone who can reach it "
        "could read messages and stop workers. Set FLOWER_BASIC_AUTH=user:password (on Heroku: heroku config:set "
        "FLOWER_BASIC_AUTH=user:password), use Flower's --auth with an OAuth provider, or listen on this machine only "
        "(--address=127.0.0.1)."
    )

add_to_flower()
