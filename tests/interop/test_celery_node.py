"""JavaScript: the real npm package `celery-node` sends to the ingress, and to the partition that it computes itself."""

from __future__ import annotations

from collections.abc import Callable

from celery_partitions import partition_of
from tests.fundamentals.application import record
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until

#: celery-node does not report when a message is sent. QUIT is processed after everything written before it.
SEND = """
const celery = require("celery-node");
const [url, queue, key, count, protocol] = process.argv.slice(1);
const client = celery.createClient(url, url, queue);
client.conf.TASK_PROTOCOL = Number(protocol || 2);
(async () => {
  await client.isReady();
  const task = client.createTask("record");
  for (let number = 0; number < Number(count); number++) task.applyAsync([{ key, number }]);
  await new Promise(setImmediate);
  await client.disconnect();
})();
"""

#: As in the README: CRC-32 of the key's UTF-8 bytes, modulo N.
CRC32 = """
function crc32(text) {
  let crc = ~0;
  for (const byte of Buffer.from(text, "utf8")) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
for (const key of JSON.parse(process.argv[2])) console.log(crc32(key) % Number(process.argv[3]));
"""

RunNode = Callable[..., str]


def test_to_the_ingress(live: LiveGroup, run_node: RunNode, key: str) -> None:
    run_node(SEND, "partition", key, "20")
    wait_until(lambda: len(live.numbers_of(record, key)) == 20)
    assert live.numbers_of(record, key) == list(range(20))


def test_to_the_partition_of_the_key(live: LiveGroup, run_node: RunNode, key: str) -> None:
    partition = run_node(CRC32, f'["{key}"]', "4").strip()
    queue = f"partition.{partition}"
    before = {name: row.processed for name, row in live.status().items()}
    run_node(SEND, queue, key, "20")
    wait_until(lambda: len(live.numbers_of(record, key)) == 20)
    assert live.numbers_of(record, key) == list(range(20))
    assert live.status()[queue].processed == before[queue] + 20


def test_protocol_1(live: LiveGroup, run_node: RunNode, key: str) -> None:
    run_node(SEND, "partition", key, "5", "1")
    wait_until(lambda: live.numbers_of(record, key) == list(range(5)))


def test_javascript_computes_the_same_partition_as_python(run_node: RunNode) -> None:
    keys = '["AAPL", "", "naïve", "日本", "\\ud83d\\ude00", "a b"]'
    found = [int(line) for line in run_node(CRC32, keys, "7").split()]
    assert found == [partition_of(key, 7) for key in ("AAPL", "", "naïve", "日本", "😀", "a b")]
