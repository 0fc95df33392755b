"""`partitions send NAME FILE` sends rows of CSV or JSON lines as messages. An error names the line of a bad row."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from celery_partitions_config.settings import Settings
from tests.cli.conftest import Refused, Run
from tests.cli.declared import note, update
from tests.producer.conftest import MakeApp


def sent(client: redis.Redis) -> list[dict[str, Any]]:
    """The messages of all queues by symbol or key, in order."""
    found = []
    for number in range(4):
        for raw in client.lrange(f"partition.{number}", 0, -1)[::-1]:  # type: ignore[index]
            found.append(msgspec.json.decode(base64.b64decode(msgspec.json.decode(raw)["body"]))[0][0])
    return sorted(found, key=lambda message: str(message.get("symbol", message.get("key"))))


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """Write a file; returns its path as text."""

    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


CSV = "symbol,price,volume\nAAPL,191.5,10\nMSFT,2,\nAAPL,192,30\n"
JSONL = '{"symbol": "AAPL", "price": 191.5, "volume": 10}\n\n{"symbol": "MSFT", "price": 2}\r\n{"price": 192, "symbol": "AAPL", "volume": 30}'
#: With two columns that are no fields.
MORE = "symbol,comment,price,volume,\x1b[2J\nAAPL,x,191.5,10,y\nMSFT,,2,,\nAAPL,x,192,30,y\n"
ROWS = [
    {"symbol": "AAPL", "price": 191.5, "volume": 10},
    {"symbol": "AAPL", "price": 192.0, "volume": 30},
    {"symbol": "MSFT", "price": 2.0, "volume": None},
]


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("prices.csv", CSV, []),
        ("prices.csv", "\ufeff" + CSV, []),
        ("prices.csv", CSV.replace("\n", "\r\n"), []),
        ("prices.txt", CSV, ["--format", "csv"]),
        ("prices.jsonl", JSONL, []),
        ("prices.csv", JSONL, ["--format", "jsonl"]),
    ],
)
def test_each_row_of_a_file_is_a_message(
    run: Run, client: redis.Redis, file: Any, name: str, content: str, options: list[str]
) -> None:
    result = run("send", update.name, file(name, content), *options)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"3 messages sent to {update.name!r}\n", "")
    assert [{"volume": None, **message} for message in sent(client)] == ROWS


def test_one_row_is_one_message(run: Run, client: redis.Redis, file: Any) -> None:
    assert run("send", update.name, file("a.csv", "symbol,price\nAAPL,1\n")).stdout == f"1 message sent to {update.name!r}\n"


@pytest.mark.parametrize(
    ("content", "options"), [(JSONL, []), (CSV, ["--format", "csv"]), ("\ufeff" + CSV, ["--format", "csv"])]
)
def test_each_row_of_standard_input_is_a_message(
    run: Run, client: redis.Redis, content: str, options: list[str]
) -> None:
    result = run("send", update.name, "-", *options, "--json", stdin=content)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"sent": 3})
    assert [{"volume": None, **message} for message in sent(client)] == ROWS


def test_rows_of_an_untyped_computation_are_sent_as_dicts(run: Run, client: redis.Redis, file: Any) -> None:
    run("send", note.name, file("a.jsonl", '{"key": 1, "deep": [{"a": null}]}\n'))
    run("send", note.name, file("a.csv", 'key,text\n2,"a ""b"", c\nd"\n'))
    assert sent(client) == [{"key": 1, "deep": [{"a": None}]}, {"key": "2", "text": 'a "b", c\nd'}]


def test_an_empty_cell_is_null_only_if_the_field_may_be_null(refused: Refused, client: redis.Redis, file: Any) -> None:
    refused("send", update.name, file("a.csv", "symbol,price,volume\nAAPL,1,\nAAPL,,\n"), says=["line 3: price: Expected `float`", "$.price"])
    assert sent(client) == [{"symbol": "AAPL", "price": 1.0, "volume": None}]


BAD = [
    ("a.csv", "symbol,price\nAAPL,1\nAAPL,dear\nMSFT,2\n", "line 3", "$.price"),
    ("a.csv", 'symbol,price\n"AA\nPL",1\nAAPL,dear\n', "line 4", "$.price"),
    ("a.csv", "symbol,price\nAAPL,1\nAAPL,1,2\n", "line 3", "more or fewer cells"),
    ("a.csv", "symbol,price\nAAPL,1\nAAPL\n", "line 3", "more or fewer cells"),
    ("a.csv", "symbol,price\nAAPL,1\n,2\n", "line 3", "a price of nothing"),
    ("a.csv", "symbol,price\nAAPL,1\n" + "x" * 200_000 + ",2\n", "line 3", "field"),
    ("a.jsonl", '{"symbol": "AAPL", "price": 1}\n{"symbol": "AAPL", "price": "dear"}\n', "line 2", "$.price"),
    ("a.jsonl", '{"symbol": "AAPL", "price": 1}\n\n{"symbol": \n', "line 3", "truncated"),
    ("a.jsonl", '{"symbol": "AAPL", "price": 1}\n["AAPL", 2]\n', "line 2", "object"),
    ("a.jsonl", '{"symbol": "AAPL", "price": 1}\n{"symbol": "", "price": 2}\n', "line 2", "a price of nothing"),
    ("a.jsonl", b'{"symbol": "AAPL", "price": 1}\n{"symbol": "\xff", "price": 2}\n', "line 2", "UTF-8"),
    ("a.csv", b"symbol,price\nAAPL,1\n\xff,2\n", "line 3", "UTF-8"),
    ("a.jsonl", '{"symbol": "AAPL", "price": 1}\n' + "[" * 100_000 + "\n", "line 2", ""),
]


@pytest.mark.parametrize("through", ["file", "stdin"])
@pytest.mark.parametrize(("name", "content", "line", "why"), BAD)
def test_the_error_of_a_bad_row_names_its_line_and_earlier_rows_are_sent(
    refused: Refused, client: redis.Redis, file: Any, through: str, name: str, content: str | bytes, line: str, why: str
) -> None:
    words = [file(name, content)] if through == "file" else ["-", "--format", name[2:]]
    refused("send", update.name, *words, stdin=content, says=[f"{line}: ", why, "send_many had sent 1 message before this error"])
    assert len(sent(client)) == 1


def test_the_error_of_a_bad_row_far_down_names_its_line_and_all_earlier_rows_are_sent(run: Run, client: redis.Redis, file: Any) -> None:
    rows = [f'{{"symbol": "s{number}", "price": {number}}}' for number in range(2500)]
    result = run("send", update.name, file("a.jsonl", "\n".join([*rows, "oops"])))
    assert "line 2501: " in result.stderr
    assert len(sent(client)) == 2500


def test_the_error_of_a_row_without_the_key_field_names_its_line(refused: Refused, client: redis.Redis, file: Any) -> None:
    refused("send", note.name, file("a.jsonl", '{"key": "k"}\n{"other": 1}\n'), says=["line 2: ", "KeyError: 'key'"])
    assert sent(client) == [{"key": "k"}]


@pytest.mark.parametrize("content", ["", "symbol,price\n"])
def test_a_file_without_rows_sends_nothing(run: Run, client: redis.Redis, file: Any, content: str) -> None:
    result = run("send", update.name, file("a.csv", content), "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"sent": 0})


def test_a_progress_bar_is_shown_on_request(run: Run, file: Any) -> None:
    result = run("send", update.name, file("a.csv", CSV), "--progress", "--json")
    assert json.loads(result.stdout) == {"sent": 3}
    assert "3/3" in result.stderr


def test_the_error_of_a_queue_of_another_type_says_what_was_sent_and_what_was_not(refused: Refused, client: redis.Redis, file: Any) -> None:
    for number in range(4):
        client.set(f"partition.{number}", "text")
    refused("send", update.name, file("a.csv", CSV), says=["0 messages are in their queues", "3 are not"])


def test_an_endless_line_is_refused_before_it_fills_the_memory(
    refused: Refused, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_partitions.cli.files.MAX_MESSAGE_BYTES", 1_000)
    for name, first in (("endless.csv", CSV.splitlines()[0]), ("endless.jsonl", JSONL.splitlines()[0])):
        refused("send", update.name, file(name, first + "\n" + "x" * 1_001), says="line 2: the line is longer than 1000 bytes")


def test_a_full_queue_stops_a_file_with_when_full_raise(
    make_app: MakeApp, refused: Refused, client: redis.Redis, settings: Settings, file: Any
) -> None:
    app = make_app(settings.redis_url, Settings(redis_url=settings.redis_url, queue_max_length=2))
    path = file("notes.jsonl", '{"key": "k", "text": "x"}\n' * 3)
    says = ["PARTITIONS_QUEUE_MAX_LENGTH is 2", "2 messages are in their queues"]
    refused("send", note.name, path, "--when-full", "raise", app=app, says=says)
    assert len(sent(client)) == 2


MIXED = "symbol,price\nAAPL,1\nAAPL,dear\nMSFT,2\nAAPL\nMSFT,3\n"


def test_a_bad_row_says_where_to_go_on_and_skip_goes_on_there(run: Run, client: redis.Redis, file: Any) -> None:
    path = file("a.csv", MIXED)
    stopped = run("send", update.name, path)
    assert "correct the row, and continue with --skip 1" in stopped.stderr
    file("a.csv", MIXED.replace("dear", "9").replace("AAPL\n", "AAPL,8\n"))
    assert run("send", update.name, path, "--skip", "1").stdout == f"4 messages sent to {update.name!r}\n"
    assert [message["price"] for message in sent(client)] == [1, 9, 8, 2, 3]


@pytest.mark.parametrize("skip", [0, 2])
def test_a_dry_run_checks_all_rows_and_sends_nothing(run: Run, client: redis.Redis, file: Any, skip: int) -> None:
    path = file("a.csv", MIXED)
    result = run("send", update.name, path, "--dry-run", "--json", "--skip", str(skip))
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"fit": 3 - skip // 2, "refused": 2 - skip // 2})
    assert ("line 3: price" in result.stderr) is (skip == 0)
    assert "line 5: the row has more or fewer cells" in result.stderr
    assert (sent(client), Path(path + ".refused").exists()) == ([], False)
    good = run("send", update.name, file("b.csv", CSV), "--dry-run")
    assert (good.exit_code, good.stdout) == (0, f"3 rows can be sent to {update.name!r}, 0 cannot\n")


@pytest.mark.parametrize(("name", "content"), [
    ("a.csv", MIXED),
    ("a.jsonl", '{"symbol": "AAPL", "price": 1}\n{"symbol": 5}\n{"symbol": "MSFT", "price": 2}\noops\n{"symbol": "MSFT", "price": 3}'),
])  # fmt: skip
def test_refused_rows_go_to_a_file_which_can_be_sent_when_it_is_corrected(
    run: Run, client: redis.Redis, file: Any, name: str, content: str
) -> None:
    path = file(name, content)
    result = run("send", update.name, path, "--on-error", "skip")
    assert result.exit_code == 1
    assert result.stdout == f"3 messages sent to {update.name!r}; 2 rows refused, see {path}.refused\n"
    assert "line 2: " in result.stderr or "line 3: " in result.stderr
    rows, refused = content.splitlines(), Path(path + ".refused").read_text().splitlines()
    assert refused == ([rows[0], rows[2], rows[4]] if name == "a.csv" else [rows[1], rows[3]])
    assert [message["price"] for message in sent(client)] == [1, 2, 3]
    elsewhere = run("send", update.name, path, "--on-error", "skip", "--refused", path + ".again", "--json")
    assert json.loads(elsewhere.stdout) == {"sent": 3, "refused": 2}
    assert Path(path + ".again").read_bytes() == Path(path + ".refused").read_bytes()


def test_a_good_file_leaves_no_file_of_refused_rows(run: Run, file: Any) -> None:
    path = file("a.csv", CSV)
    result = run("send", update.name, path, "--on-error", "skip", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"sent": 3, "refused": 0})
    assert not Path(path + ".refused").exists()


def test_many_refused_rows_are_not_all_named(run: Run, file: Any) -> None:
    result = run("send", update.name, file("a.jsonl", "oops\n" * 30), "--dry-run")
    assert result.stderr.count("line ") == 20
    assert "further rows are not named" in result.stderr


def test_ids_name_the_row(run: Run, client: redis.Redis, file: Any) -> None:
    path = file("a.jsonl", '{"key": "k"}\n\noops\n{"key": "k"}\n')
    run("send", note.name, path, "--ids", "july", "--on-error", "skip")
    (queue,) = client.keys("partition.?")  # type: ignore[misc]
    ids = [msgspec.json.decode(raw)["headers"]["id"] for raw in client.lrange(queue, 0, -1)[::-1]]  # type: ignore[index]
    assert ids == ["july:1", "july:3"]


@pytest.mark.parametrize("through", ["a text file", "stdin"])
def test_csv_that_nobody_named_so_gets_a_hint(run: Run, file: Any, through: str) -> None:
    result = run("send", update.name, file("a.txt", CSV)) if through == "a text file" else run("send", update.name, "-", stdin=CSV)
    assert "if this is CSV, pass --format csv" in result.stderr
    assert "--format csv" not in run("send", update.name, file("b.txt", CSV), "--format", "jsonl").stderr


def test_an_interrupted_file_says_where_to_go_on(make_app: MakeApp, run: Run, settings: Settings, file: Any) -> None:
    app = make_app(settings.redis_url, Settings(redis_url=settings.redis_url, queue_max_length=2))
    path = file("notes.jsonl", '{"key": "k", "text": "x"}\n' * 5)
    result = run("send", note.name, path, "--when-full", "raise", "--skip", "1", app=app)
    assert "continue with --skip 3" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("prices.CSV", CSV, ""),
        ("prices.csv", CSV.replace(",", ", "), ""),
        ("prices.csv", CSV.replace("symbol,", " symbol ,"), ""),
        ("prices.csv", CSV + ",,\n , ,\n,,,,,,\n", "ignored 3 rows of empty cells"),
        ("prices.csv", CSV.replace("\n", ",\n"), ""),
        ("prices.csv", MORE, "ignored columns, because no field has their name: comment, \\x1b[2J"),
    ],
    ids=["upper case", "spaces", "spaces around a name", "lines of commas", "a comma at each end", "more columns"],
)  # fmt: skip
def test_files_as_spreadsheets_write_them(run: Run, client: redis.Redis, file: Any, name: str, content: str, said: str) -> None:
    path = file(name, content)
    result = run("send", update.name, path)
    assert (result.exit_code, result.stderr) == (0, f"{path}: {said}\n" if said else "")
    assert sent(client) == ROWS


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("symbol,price,volumes", "line 1: no field has the name 'volumes' of a column. Did you mean 'volume'?"),
        ("Symbol,price,volume", "line 1: no field has the name 'Symbol' of a column. Did you mean 'symbol'?"),
        ("symbol,price,price", "line 1: two columns have the name 'price'"),
        ("symbol,price,", "line 2: the row has a cell in a column without a name"),
    ],
)
def test_a_column_that_is_probably_meant_for_a_field_is_refused(run: Run, client: redis.Redis, file: Any, header: str, error: str) -> None:
    result = run("send", update.name, file("a.csv", f"{header}\nAAPL,1,2\n"))
    assert result.exit_code != 0 and error in result.stderr
    assert ("--skip" in result.stderr) == ("line 1:" not in error), "the header is no row"
    assert sent(client) == []
