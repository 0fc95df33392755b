"""Votes in the style of Wallaroo 0.1: everything is a class, and the API gets objects."""

import string
import struct

import wallaroo


def application_setup(args):
    in_host, in_port = wallaroo.tcp_parse_input_addrs(args)[0]
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]

    letter_partitions = list(string.ascii_lowercase)
    ab = wallaroo.ApplicationBuilder("alphabet")
    ab.new_pipeline("alphabet", wallaroo.TCPSourceConfig(in_host, in_port, LetterDecoder()))
    ab.to(Lower)
    ab.to_state_partition(
        AddVotes(), LetterStateBuilder(), "letter state", LetterPartitionFunction(), letter_partitions
    )
    ab.to(Twice)
    ab.to_sink(wallaroo.TCPSinkConfig(out_host, out_port, LetterEncoder()))
    return ab.build()


class Votes(object):
    def __init__(self, letter, votes):
        self.letter = letter
        self.votes = votes


class LetterState(object):
    def __init__(self, seat):
        self.seat = seat
        self.letter = None
        self.votes = 0


class LetterStateBuilder(object):
    def build(self):
        return LetterState("made")


class LetterPartitionFunction(object):
    def partition(self, data):
        return data.letter[0]


class LetterDecoder(object):
    def header_length(self):
        return 4

    def payload_length(self, bs):
        return struct.unpack(">I", bs)[0]

    def decode(self, bs):
        letter, vote_count = struct.unpack(">sI", bs)
        return Votes(letter.decode("utf-8"), vote_count)


class Lower(object):
    def name(self):
        return "lower"

    def compute(self, data):
        data.letter = data.letter.lower()
        return data


class AddVotes(object):
    def name(self):
        return "add votes"

    def compute(self, data, state):
        state.letter = data.letter
        state.votes += data.votes
        return (Votes(state.letter, state.votes), True)


class Twice(object):
    def name(self):
        return "twice"

    def compute_multi(self, data):
        return [data, data]


class LetterEncoder(object):
    def encode(self, data):
        return struct.pack(">IsQ", 9, data.letter.encode("utf-8"), data.votes)
