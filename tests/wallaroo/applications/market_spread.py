"""The market spread example of Wallaroo 0.6: two inputs share one state per symbol. Orders in a wide market are reported.

`--in` has two addresses, with names or without: `nbbo@host:port` is the market's data, whatever its place.
"""

import struct

import wallaroo


def application_setup(args):
    addresses = wallaroo.tcp_parse_input_addrs(args)
    if len(addresses[0]) == 3:
        by_name = {name: (name, host, port) for name, host, port in addresses}
        order, nbbo = by_name["orders"], by_name["nbbo"]
    else:
        order, nbbo = addresses
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]

    orders = wallaroo.source("orders", wallaroo.TCPSourceConfig(*order, decode_order)).key_by(extract_symbol)
    market_data = wallaroo.source("market data", wallaroo.TCPSourceConfig(*nbbo, decode_market_data)).key_by(
        extract_symbol
    )
    pipeline = (
        orders.merge(market_data)
        .to(check_market_data)
        .to_sink(wallaroo.TCPSinkConfig(out_host, out_port, encode_order_result))
    )
    return wallaroo.build_application("Market Spread", pipeline)


class MarketDataMessage(object):
    def __init__(self, symbol, bid, offer):
        self.symbol = symbol
        self.bid = bid
        self.offer = offer
        self.mid = (bid + offer) / 2.0


class Order(object):
    def __init__(self, symbol, order_id):
        self.symbol = symbol
        self.order_id = order_id


class SymbolData(object):
    def __init__(self, last_bid=0.0, last_offer=0.0, should_reject_trades=True):
        self.last_bid = last_bid
        self.last_offer = last_offer
        self.should_reject_trades = should_reject_trades


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode_order(bs):
    symbol, order_id = struct.unpack(">4sI", bs)
    return Order(symbol.decode().strip(), order_id)


@wallaroo.decoder(header_length=4, length_fmt=">I")
def decode_market_data(bs):
    symbol, bid, offer = struct.unpack(">4sdd", bs)
    return MarketDataMessage(symbol.decode().strip(), bid, offer)


@wallaroo.key_extractor
def extract_symbol(data):
    return data.symbol


@wallaroo.state_computation(name="check market data", state=SymbolData)
def check_market_data(data, state):
    if isinstance(data, MarketDataMessage):
        offer_bid_difference = data.offer - data.bid
        state.last_bid = data.bid
        state.last_offer = data.offer
        state.should_reject_trades = (offer_bid_difference >= 0.05) or (offer_bid_difference / data.mid >= 0.05)
        return None
    if state.should_reject_trades:
        return (data, state.last_bid, state.last_offer)
    return None


@wallaroo.encoder
def encode_order_result(data):
    order, bid, offer = data
    payload = struct.pack(">4sIdd", order.symbol.ljust(4).encode(), order.order_id, bid, offer)
    return struct.pack(">I", len(payload)) + payload
