"""A generator with its own state as the source; the sums of odd and of even numbers."""

import wallaroo


def application_setup(args):
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]
    numbers = wallaroo.source("numbers", wallaroo.GenSourceConfig("generated", Numbers()))
    pipeline = numbers.key_by(parity).to(add_up).to_sink(wallaroo.TCPSinkConfig(out_host, out_port, encode))
    return wallaroo.build_application("Generated", pipeline)


class Numbers(object):
    def __init__(self):
        self.given = 1

    def initial_value(self):
        return (1, "first")

    def apply(self, value):
        self.given += 1
        if self.given > 200:
            return None
        return (value[0] + 1, "next")


class Sum(object):
    def __init__(self):
        self.value = 0


@wallaroo.key_extractor
def parity(message):
    return "odd" if message[0] % 2 else "even"


@wallaroo.state_computation_multi("add up", Sum)
def add_up(message, state):
    state.value += message[0]
    return [(parity(message), state.value)]


@wallaroo.encoder
def encode(message):
    return "%s %d\n" % message
