"""What the benchmark makes of its numbers."""

from __future__ import annotations

import json
import socket
import threading
import xml.etree.ElementTree as ET

import pytest

from benchmarks import migrations, table
from benchmarks.effort import Effort
from benchmarks.line import Line
from benchmarks.outcome import Outcome, Row, Target, from_json, to_json
from benchmarks.page import page
from benchmarks.pairs import Quartiles, Rounds, play, quartiles, ratios
from benchmarks.plot import plot, scale
from benchmarks.process import Cost, Failed

OUTCOME = Outcome(
    "light",
    "1,000 light files",
    "dbmate",
    [
        Row("dbmate", 5, 2000.0, 900.0, 22.0, Quartiles(1, 1, 1)),
        Row("pg-predeploy", 5, 500.0, 400.0, 31.9, Quartiles(0.24, 0.25, 0.27), {"failed": "0 of 20"}),
    ],
    [Target("wall time to dbmate's", 0.25, 0.3), Target("memory", 48.04, 48, "MiB")],
    ["a note"],
    {"yoyo": "pip ended with 1"},
)


def test_a_ratio_is_taken_within_each_round_and_its_median_told() -> None:
    # The machine was slow in the second round, for both: the medians alone would say 1.5.
    assert ratios([10, 90, 30], [10, 90, 20]) == Quartiles(1.0, 1.0, 1.25)
    assert ratios([1, 2, 3], [2]) == Quartiles(0.5, 0.5, 0.5)
    assert quartiles([4, 1, 3, 2, 5]) == Quartiles(2, 3, 4)


def test_everyone_runs_in_turn_and_slow_ones_less_often() -> None:
    order = []

    def contender(name: str) -> Cost:
        order.append(name)
        return Cost(1.0, 1.0, 1.0)

    runs = {name: (lambda name=name: contender(name)) for name in "abc"}
    rounds = play(runs, 3, 1, ("a", "b"), warm=True)
    assert "".join(order) == "abcabcabab"  # the first three were to warm up
    assert {name: len(costs) for name, costs in rounds.costs.items()} == {"a": 3, "b": 3, "c": 1}


def test_who_fails_is_measured_no_more_and_has_no_figures() -> None:
    left = [Cost(1.0, 1.0, 1.0)]

    def fails_the_second_time() -> Cost:
        if not left:
            raise Failed("ended with 1")
        return left.pop()

    rounds = play({"a": fails_the_second_time}, 4, 4, ("a",))
    assert (rounds.costs, rounds.failures) == ({}, {"a": "ended with 1"})


@pytest.mark.parametrize(("found", "limit", "word"), [(0.3, 0.3, "met"), (0.3001, 0.3, "**not met**")])
def test_a_target_is_met_up_to_its_limit(found: float, limit: float, word: str) -> None:
    assert table.verdict(Target("", found, limit)) == word


def test_a_target_of_who_was_not_measured_is_not_judged() -> None:
    outcome = Outcome("light", "light")
    outcome.add_target("wall time", Rounds({"a": [Cost(1, 1, 1)]}, {}), "a", "b", 2.0)
    assert outcome.targets == []
    assert "not measured" in table.targets([outcome])


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(7.26, "7.3 ms"), (99.94, "99.9 ms"), (123.4, "123 ms"), (1234.0, "1.23 s"), (19600.0, "19.6 s")],
)
def test_durations_have_three_digits(milliseconds: float, text: str) -> None:
    assert table.duration(milliseconds) == text


def test_the_fastest_stands_first_and_the_baseline_is_one() -> None:
    assert table.rows(OUTCOME).splitlines() == [
        "| | wall | CPU | memory | to dbmate | failed | runs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| **pg-predeploy** | 500 ms | 400 ms | 31.9 MiB | 0.25 (0.24 to 0.27) | 0 of 20 | 5 |",
        "| dbmate | 2.00 s | 900 ms | 22.0 MiB | 1 | | 5 |",
    ]


def test_the_page_says_of_each_target_whether_it_is_met() -> None:
    text = page([OUTCOME], {"processor": "2 x Z80"}, Effort())
    assert "1 of 2 are met." in text
    assert "| 1,000 light files | wall time to dbmate's | 0.30 x | 0.25 x | met |" in text
    assert "| memory | 48.0 MiB | 48.0 MiB | **not met** |" in text
    assert "- not measured: yoyo (pip ended with 1)" in text


def test_an_outcome_comes_back_from_its_file_as_it_was() -> None:
    assert from_json(json.loads(json.dumps(to_json(OUTCOME)))) == OUTCOME


def test_bars_are_linear_from_zero_and_never_nothing() -> None:
    assert scale(50, 200, 400) == 100
    assert scale(0.001, 200, 400) == 1


def test_the_picture_is_an_svg_in_which_the_slowest_bar_is_the_longest() -> None:
    picture = ET.fromstring(plot([OUTCOME, Outcome("image", "without rows")]))  # noqa: S314  our own
    bars = [bar for bar in picture.iter("{http://www.w3.org/2000/svg}rect") if bar.get("rx")]
    assert [bar.get("class") for bar in bars] == ["ours", "peer"]
    ours, slowest = (float(bar.attrib["width"]) for bar in bars)
    assert ours == pytest.approx(slowest / 4, abs=0.1)


def test_a_big_file_has_the_size_asked_for_and_tells_its_rows() -> None:
    pending = migrations.big(100_000)
    (migration,) = pending.migrations
    assert 100_000 <= len(migration.sql) < 100_300
    assert pending.expected == (migration.sql.count("INSERT"),)


def test_the_line_delivers_everything_in_order_and_counts_the_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_until_the_end, args=[listener])
        thread.start()
        port = listener.getsockname()[1]
        with Line(port, 0.01) as line, socket.create_connection(("127.0.0.1", line.port)) as client:
            for _ in range(2):
                client.sendall(b"ping")
                assert client.recv(4) == b"pong"
            client.sendall(bytes(range(256)) * 40_000)
            client.shutdown(socket.SHUT_WR)
            rest = b"".join(iter(lambda: client.recv(1 << 16), b""))
        thread.join()
    assert rest == bytes(range(256)) * 40_000
    assert line.round_trips == 3


def _answer_until_the_end(listener: socket.socket) -> None:
    """Answer two pings, then say everything again that was said, once it is complete."""
    server, _ = listener.accept()
    with server:
        for _ in range(2):
            server.recv(4)
            server.sendall(b"pong")
        server.sendall(b"".join(iter(lambda: server.recv(1 << 16), b"")))
