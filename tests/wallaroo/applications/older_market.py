"""Market spread in the style of Wallaroo 0.2 to 0.5: two pipelines share a state by name."""

import struct

import wallaroo


def application_setup(args):
    input_addrs = wallaroo.tcp_parse_input_addrs(args)
    order_host, order_port = input_addrs[0]
    nbbo_host, nbbo_port = input_addrs[1]
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]

    ab = wallaroo.ApplicationBuilder("market-spread")
    ab.new_pipeline(
        "Orders", wallaroo.TCPSourceConfig(order_host, order_port, decode_order)
    ).to_state_partition(
        check_order, SymbolData, "symbol-data", extract_symbol
    ).to_sink(
        wallaroo.TCPSinkConfig(out_host, out_port, encode_order_result)
    ).new_pipeline(
        "Market Data", wallaroo.TCPSourceConfig(nbbo_host, nbbo_port, decode_market_data)
    ).to_state_partition(
        update_market_data, SymbolData, "symbol-data", extract_symbol
    ).done()
    return ab.build()


class SymbolData(object):
    def __init__(self):
        self.last_bid = 0.0
        self.last_offer = 0.0
        self.should_reject_trades = True


@wallaroo.partition
def extract_symbol(data):
    return data[0]


@wallaroo.state_computation(name="Check Order")
def check_order(data, state):
    if state.should_reject_trades:
        return ((data[0], data[1], state.last_bid, state.last_offer), False)
    return (None, False)


@wallaroo.state_computation(name="Update Market Data")
def update_market_data(data, state):
    symbol, bid, offer = data
    state.last_bid = bid
    state.last_offer = offer
    state.should_reject_trades = offer - bid >= 0.05
    return (None, True)


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode_order(bs):
    symbol, order_id = struct.unpack(">4sI", bs)
    return (symbol.decode().strip(), order_id)


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode_market_data(bs):
    symbol, bid, offer = struct.unpack(">4sdd", bs)
    return (symbol.decode().strip(), bid, offer)


@wallaroo.encoder
def encode_order_result(data):
    symbol, order_id, bid, offer = data
    payload = struct.pack(">4sIdd", symbol.ljust(4).encode(), order_id, bid, offer)
    return struct.pack(">I", len(payload)) + payload
