"""The example of votes for letters of Wallaroo 0.6: packed binary frames in and out."""

import struct

import wallaroo


def application_setup(args):
    in_host, in_port = wallaroo.tcp_parse_input_addrs(args)[0]
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]

    votes = wallaroo.source("alphabet", wallaroo.TCPSourceConfig(in_host, in_port, decode_votes))
    pipeline = (
        votes.key_by(extract_letter)
        .to(add_votes)
        .to_sink(wallaroo.TCPSinkConfig(out_host, out_port, encode_votes))
    )
    return wallaroo.build_application("Alphabet Popularity Contest", pipeline)


class Votes(object):
    def __init__(self, letter, votes):
        self.letter = letter
        self.votes = votes


class AllVotes(object):
    def __init__(self):
        self.votes = None

    def update(self, votes):
        if self.votes is None:
            self.votes = votes
        else:
            self.votes.votes += votes.votes

    def get_votes(self):
        return self.votes


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode_votes(bs):
    (letter, vote_count) = struct.unpack(">sI", bs)
    return Votes(letter.decode("utf-8"), vote_count)


@wallaroo.key_extractor
def extract_letter(data):
    return data.letter


@wallaroo.state_computation(name="add votes", state=AllVotes)
def add_votes(data, state):
    state.update(data)
    return state.get_votes()


@wallaroo.encoder
def encode_votes(data):
    return struct.pack(">IsQ", 9, data.letter.encode("utf-8"), data.votes)
