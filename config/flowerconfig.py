"""Flower's settings: `celery -A APP partitions flower` gives this file to Flower.

Flower shows messages and results, and can end workers and revoke tasks. So it listens where only this machine reaches it,
or has a login; else it refuses to start. Flower runs this file after it has read the environment (`FLOWER_…`) and the
command line; the command line beats what stands here. It also adds the pages of the partitions.
"""

import ipaddress
import sys

from tornado.options import options

from celery_partitions.dashboard import add_to_flower

#: Flower keeps each task it saw (about 4 KB); partition workers sample their events, so this is minutes of work.
max_tasks = 10_000
#: Unless told otherwise only this machine sees it.
address = options.address or "127.0.0.1"


def _reaches_only_this_machine(place: str) -> bool:
    try:
        return ipaddress.ip_address(place).is_loopback
    except ValueError:
        return place == "localhost"


# An empty address on the command line is every network, as in Flower itself.
_place = "" if "address=" in [_word.lstrip("-") for _word in sys.argv] else address
if not (options.basic_auth or options.auth or options.unix_socket or _reaches_only_this_machine(_place)):
    raise SystemExit(
        f"Flower does not start: it would listen on {_place or 'every network'}, and has no login, so anybody who reaches it "
        "could read messages and stop workers. Set FLOWER_BASIC_AUTH=user:password (on Heroku: heroku config:set "
        "FLOWER_BASIC_AUTH=user:password), or Flower's --auth with an OAuth provider, or listen on this machine only: "
        "--address=127.0.0.1"
    )

add_to_flower()
