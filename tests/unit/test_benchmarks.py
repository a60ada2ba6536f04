"""How the benchmark turns its measurements into figures."""

from __future__ import annotations

import socket
import threading
import time
import xml.etree.ElementTree as ET
from functools import partial

import pytest

from benchmarks import report
from benchmarks.install import Failed
from benchmarks.measure import Cost, Result
from benchmarks.migrations import big_file
from benchmarks.server import LatencyProxy
from benchmarks.workloads import TARGETS, WORKLOADS, Target


def a_result() -> Result:
    """Return a workload in which the machine was slow in the second round, for both runners."""
    return Result(
        "1,000 light files",
        costs={
            "dbmate": [Cost(1000, 900, 22), Cost(9000, 900, 22), Cost(2000, 900, 22)],
            "pg-predeploy": [Cost(500, 400, 31.9), Cost(2250, 400, 31.9), Cost(500, 400, 31.9)],
        },
        columns={"failed": {"dbmate": 19, "pg-predeploy": 0}},
        notes=["a note"],
        not_measured={"alembic": "no network"},
    )


def test_ratios_are_computed_within_each_round() -> None:
    assert a_result().ratio("pg-predeploy", "dbmate") == pytest.approx((0.25, 0.25, 0.375))


def test_runners_are_measured_in_turn_and_one_that_fails_has_no_figures() -> None:
    order = []

    def measure(name: str) -> Cost:
        order.append(name)
        if name == "b" and order.count("b") == 2:
            raise Failed("exit code 1")
        return Cost(1, 1, 1)

    result = Result("")
    result.measure({name: partial(measure, name) for name in "abc"}, 3)
    assert "".join(order) == "abcabcac"
    assert result.not_measured == {"b": "exit code 1"}
    assert {name: len(costs) for name, costs in result.costs.items()} == {"a": 3, "c": 3}


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (Target("light", "wall time to dbmate", 0.25), 0.25),
        (Target("light", "wall time to C floor", 1), None),
        (Target("light", "memory", 31, "MiB"), 31.9),
        (Target("light", "failed", 0, ""), 0),
    ],
)
def test_each_target_is_compared_with_its_figure(target: Target, found: float | None) -> None:
    assert target.found(a_result()) == found


def test_each_target_belongs_to_a_workload() -> None:
    assert {target.workload for target in TARGETS} == WORKLOADS.keys()


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(7.26, "7.3 ms"), (99.94, "99.9 ms"), (123.4, "123 ms"), (1234.0, "1.23 s"), (19600.0, "19.6 s")],
)
def test_durations_have_three_digits(milliseconds: float, text: str) -> None:
    assert report.duration(milliseconds) == text


def test_the_page_lists_the_targets_and_the_fastest_runner_first() -> None:
    targets = [
        Target("light", "wall time to dbmate", 0.25),
        Target("light", "memory", 31.85, "MiB"),
        Target("light", "wall time to C floor", 1),
    ]
    page = report.page({"light": a_result()}, targets, {"processor": "2 x Z80"}, (21, 5))
    assert "1 of 3 are met." in page
    assert "| 1,000 light files | wall time to dbmate | 0.25 x | 0.25 x | met |" in page
    assert "| 1,000 light files | memory | 31.9 MiB | 31.9 MiB | **not met** |" in page
    assert "| 1,000 light files | wall time to C floor | 1.00 x | not measured | |" in page
    assert (
        "| | wall | CPU | memory | to dbmate | failed | runs |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| **pg-predeploy** | 500 ms | 400 ms | 31.9 MiB | 0.25 (0.25 to 0.38) | 0 | 3 |\n"
        "| dbmate | 2.00 s | 900 ms | 22.0 MiB | 1 | 19 | 3 |\n\n"
        "- a note\n- not measured: alembic (no network)\n"
    ) in page
    assert "21 rounds for starts with nothing to do, 5 for everything else" in page


def test_in_the_plot_the_slowest_bar_is_the_longest() -> None:
    picture = ET.fromstring(report.plot([a_result(), Result("without costs")]))  # noqa: S314  from our own string
    bars = [bar for bar in picture.iter("{http://www.w3.org/2000/svg}rect") if bar.get("rx")]
    assert [bar.get("class") for bar in bars] == ["product", "peer"]
    product, slowest = (float(bar.attrib["width"]) for bar in bars)
    assert product == pytest.approx(slowest / 4, abs=0.1)
    assert "2.00 s, 19 failed" in {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}


def test_a_big_file_has_the_requested_size_and_row_count() -> None:
    files = big_file(100_000)
    (sql,) = files.migrations
    assert 100_000 <= len(sql) < 100_300
    assert files.expected == (sql.count("INSERT"),)


def test_the_latency_proxy_delays_all_data_in_order_and_counts_round_trips() -> None:
    everything = bytes(range(256)) * 40_000
    with socket.create_server(("127.0.0.1", 0)) as listener, LatencyProxy(listener.getsockname()[1], 0.1) as proxy:
        thread = threading.Thread(target=_answer, args=[listener])
        thread.start()
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            started = time.monotonic()
            for _ in range(2):
                client.sendall(b"ping")
                assert client.recv(4) == b"pong"
            assert time.monotonic() - started >= 0.2
            client.sendall(everything)
            client.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: client.recv(1 << 16), b"")) == everything
        thread.join()
    assert proxy.round_trips == 3


def _answer(listener: socket.socket) -> None:
    """Answer two pings, then echo all further data once it is complete."""
    server, _ = listener.accept()
    with server:
        for _ in range(2):
            server.recv(4)
            server.sendall(b"pong")
        server.sendall(b"".join(iter(lambda: server.recv(1 << 16), b"")))
