"""The layout of a pipeline's drawing."""

from __future__ import annotations

import random
import re
from itertools import combinations
from typing import Any

from celery_partitions.dashboard.drawing import BOX_HEIGHT, BOX_WIDTH, draw
from tests.support.browser import PHONE


def pipeline(edges: list[tuple[int, int]]) -> dict[str, Any]:
    count = max((end for edge in edges for end in edge), default=0) + 1
    parts = [{"kind": "stage", "name": f"stage {number} with a long name"} for number in range(count)]
    return {"pipeline": "p", "parts": parts, "edges": [{"start": start, "end": end, "kind": "queue"} for start, end in edges]}


def test_boxes_never_overlap_and_lines_go_down_between_them() -> None:
    choose = random.Random(4)
    for count in range(1, 14):
        edges = [(start, end) for start, end in combinations(range(count), 2) if choose.random() < 0.3] or [(0, count)]
        drawing = draw(pipeline(edges))
        for one, other in combinations(drawing.boxes, 2):
            assert abs(one.x - other.x) >= BOX_WIDTH or abs(one.y - other.y) >= BOX_HEIGHT
        for box in drawing.boxes:
            assert 0 <= box.x <= drawing.width - BOX_WIDTH and 0 <= box.y <= drawing.height - BOX_HEIGHT
        for line, (start, end) in zip(drawing.lines, edges, strict=True):
            assert drawing.boxes[start].y < drawing.boxes[end].y
            points = re.findall(r"(-?\d+) (-?\d+)(?= C| V|$)", line.path)
            crossing = [(int(x), int(y)) for x, y in points[1:-1]]
            for box in drawing.boxes:
                assert not any(box.x < x < box.x + BOX_WIDTH and box.y == y for x, y in crossing)


def test_two_parts_beside_each_other_fit_a_phone() -> None:
    assert draw(pipeline([(0, 1), (0, 2)])).width <= PHONE["width"] - 40
    assert draw({"pipeline": "p", "parts": [], "edges": []}).boxes == []
