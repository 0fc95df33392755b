"""Reverses words, without state. The source and the computation have the same name, and one computation is an object."""

import wallaroo


def application_setup(args):
    in_host, in_port = wallaroo.tcp_parse_input_addrs(args)[0]
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]

    lines = wallaroo.source("reverse", wallaroo.TCPSourceConfig(in_host, in_port, decoder))
    pipeline = (
        lines.to(reverse)
        .to(exclaim)
        .to(exclaim)
        .to_sink(wallaroo.TCPSinkConfig(out_host, out_port, encoder))
    )
    return wallaroo.build_application("Reverse", pipeline)


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decoder(bs):
    return bs.decode("utf-8")


@wallaroo.computation(name="reverse")
def reverse(data, end="."):
    if data == "nothing":
        return None
    if data == "raise":
        raise ValueError("asked to")
    return data[::-1] + end


class Append:
    def __init__(self, what):
        self.what = what

    def __call__(self, data):
        return data + self.what


exclaim = wallaroo.computation("append")(Append("!"))


@wallaroo.encoder
def encoder(data):
    # data is a string
    return data + "\n"
