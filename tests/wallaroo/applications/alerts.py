"""The alerts example of Wallaroo 0.6: a user's transactions in windows. A window with a high total makes an alert."""

import wallaroo


def application_setup(args):
    in_host, in_port = wallaroo.tcp_parse_input_addrs(args)[0]
    out_host, out_port = wallaroo.tcp_parse_output_addrs(args)[0]

    transactions = wallaroo.source("transactions", wallaroo.TCPSourceConfig(in_host, in_port, decode))
    pipeline = (
        transactions.key_by(extract_user)
        .to(wallaroo.count_windows(3).over(TransactionTotal))
        .to(check_transaction_total)
        .key_by(extract_alert_user)
        .to(wallaroo.range_windows(wallaroo.milliseconds(300)).over(Alerts))
        .to_sink(wallaroo.TCPSinkConfig(out_host, out_port, encode_alert))
    )
    return wallaroo.build_application("Alerts", pipeline)


class Transaction(object):
    def __init__(self, user, amount):
        self.user = user
        self.amount = amount


class Total(object):
    def __init__(self):
        self.value = 0


class TransactionTotal(wallaroo.Aggregation):
    def initial_accumulator(self):
        return Total()

    def update(self, transaction, total):
        total.value += transaction.amount

    def combine(self, total1, total2):
        total1.value += total2.value
        return total1

    def output(self, user, total):
        return (user, total.value)


class Alerts(wallaroo.Aggregation):
    def initial_accumulator(self):
        return []

    def update(self, alert, alerts):
        alerts.append(alert)
        return alerts

    def combine(self, alerts1, alerts2):
        return alerts1 + alerts2

    def output(self, user, alerts):
        return (user, sum(alert[1] for alert in alerts))


@wallaroo.computation(name="check transaction total")
def check_transaction_total(totalled):
    return totalled if totalled[1] > 100 else None


@wallaroo.key_extractor
def extract_user(transaction):
    return transaction.user


@wallaroo.key_extractor
def extract_alert_user(alert):
    return alert[0]


@wallaroo.decoder(header_length=2, length_fmt=">H")
def decode(bs):
    user, amount = bs.decode().split(" ")
    return Transaction(user, int(amount))


@wallaroo.encoder
def encode_alert(alert):
    return "%s %d\n" % alert
