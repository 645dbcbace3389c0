"""The freshness benchmark: what it writes, how it attributes and dates answers, and how it judges."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import orjson
import pytest

from benchmarks.fleet import ROOT, registry_path
from benchmarks.freshness import idle, swap
from benchmarks.freshness.latency import Samples, announced, answered, quantile
from benchmarks.freshness.open_loop import Action, OpenLoop, Recording, source_stamp
from benchmarks.freshness.plot import draw
from benchmarks.freshness.processes import Source, cpu_s, stage
from benchmarks.freshness.rates import CURVE, MAIN_RATE, Block, Main, Stretch, choose_quiet, measure, summarize
from benchmarks.freshness.results import (
    Findings,
    Limit,
    as_json,
    describe_machine,
    figures,
    judge,
    markdown,
    read_limits,
)
from benchmarks.freshness.schedule import Probes, Producer, Schedule, iso_stamps, prediction_key, read_stamps
from benchmarks.freshness.wire import Wire, announced_keys

MS = 1_000_000
EVERYBODY = Probes(["BUS-"], 100)
MACHINE = {"command": "c", "cpu": "x", "n_cpus": 4, "used_cpus": [2, 3], "kernel": "6", "python": "3"}
MACHINE |= {"redis_server": "6.2", "versions": {"numpy": "2"}}


def schedule_of(vehicles, rate_per_s=1_000.0, n_warm=0):
    """Writes a millisecond apart, with timestamps a millisecond apart."""
    vehicle_ix = np.array(vehicles, np.int64)
    event_us = 1_768_910_400_000_000 + 1_000 * np.arange(len(vehicles))
    return Schedule(rate_per_s, b"", np.zeros(len(vehicles), np.int64), vehicle_ix, event_us, n_warm)


def recording_of(schedule, answers, sent_late_ms=0.0):
    """From (milliseconds after the start, vehicle, number of the write that the document knows)."""
    start_ns = 5_000 * MS
    due_ns = start_ns + schedule.due_s() * 1e9
    recording = Recording(start_ns, (due_ns + sent_late_ms * MS).astype(np.int64))
    for at_ms, vehicle, write in answers:
        recording.heard.append((start_ns + round(at_ms * MS), prediction_key(vehicle)))
        stamp = iso_stamps(schedule.event_us[write : write + 1])[0]
        recording.documents.append(b'{"model_key":"m","source_timestamp":"%b","x":1}' % stamp)
    return recording


def latencies(schedule, answers, probes=EVERYBODY):
    return answered(schedule, probes, recording_of(schedule, answers)).latency_ms.tolist()


# -- the schedule -------------------------------------------------------------------------------------------------


def test_a_schedule_is_ready_to_be_sent(redis_server, redis_client):
    producer = Producer(20)
    schedule = producer.schedule(1_000, 0.03)
    assert len(schedule) == 30
    assert np.unique(schedule.vehicle_ix[:20]).size == 20, "every vehicle has its turn"
    assert (schedule.vehicle_ix[20:] == schedule.vehicle_ix[:10]).all(), "and then again in the same order"
    assert schedule.ends[-1] == len(schedule.commands)
    with Wire(redis_server.socket_path) as wire:
        begin = 0
        for end in schedule.ends.tolist():
            wire.send(schedule.commands[begin:end])
            begin = end
    last = schedule.vehicle_ix[-1]
    snapshot = orjson.loads(redis_client.get(producer.keys[last]))
    assert snapshot["vehicle_id"].encode() in producer.keys[last]
    assert snapshot["timestamp"].encode() == iso_stamps(schedule.event_us[-1:])[0]


def test_timestamps_never_repeat_or_go_back():
    producer = Producer(10)
    events = np.concatenate([producer.schedule(rate, 0.01).event_us for rate in (100_000, 50_000, 100)])
    assert (np.diff(events) > 0).all()


def test_a_vehicle_is_elsewhere_the_next_time():
    producer = Producer(3)
    commands = producer.schedule(1_000, 0.006).commands.split(b"*3\r\n")[1:]
    places = [tuple(orjson.loads(command.split(b"\r\n")[-2])[k] for k in ("lat", "lon")) for command in commands]
    assert len(set(places)) == 6


def test_stamps_are_read_back():
    us = np.array([0, 1_768_910_400_000_001], np.int64)
    assert iso_stamps(us)[0] == b"1970-01-01T00:00:00.000000+00:00"
    assert (read_stamps(iso_stamps(us)) == us).all()
    assert read_stamps([]).tolist() == []


@pytest.mark.parametrize(
    ("rate", "prefixes", "n"),
    [
        (100, ["BUS-"], 10_000),
        (1_000, ["BUS-"], 10_000),
        (2_000, [f"BUS-00{i}" for i in range(5)], 5_000),
        (10_000, ["BUS-000"], 1_000),
        (20_000, [f"BUS-000{i}" for i in range(5)], 500),
        (160_000, ["BUS-0000"], 100),
    ],
)
def test_the_sample_is_what_the_prefixes_say(rate, prefixes, n):
    probes = Probes.choose(rate)
    assert (probes.prefixes, probes.n) == (prefixes, n)
    ix = np.arange(10_000)
    starts = [f"BUS-{i:06d}".startswith(tuple(prefixes)) for i in ix.tolist()]
    assert starts == probes.are(ix).tolist()


# -- who answers whom ---------------------------------------------------------------------------------------------


def test_latency_runs_from_when_the_write_was_due():
    schedule = schedule_of([0, 1])
    recording = recording_of(schedule, [(4.0, 0, 0), (4.0, 1, 1)], sent_late_ms=2.0)
    samples = answered(schedule, EVERYBODY, recording)
    assert samples.latency_ms == pytest.approx([4.0, 3.0])
    assert samples.late_ms == pytest.approx([2.0, 2.0])
    assert samples.n_late == 2


def test_the_newest_of_several_writes_answers_all_of_them():
    schedule = schedule_of([7, 7, 7, 8])
    samples = answered(schedule, EVERYBODY, recording_of(schedule, [(10.0, 7, 2), (11.0, 8, 3)]))
    assert samples.latency_ms == pytest.approx([10.0, 9.0, 8.0, 8.0])
    assert samples.n_answers == 2


def test_the_first_prediction_that_knows_the_write_counts():
    assert latencies(schedule_of([7, 7]), [(3.0, 7, 0), (9.0, 7, 1)]) == pytest.approx([3.0, 8.0])


def test_an_older_prediction_or_another_vehicle_answers_nothing():
    schedule = schedule_of([7, 8, 7, 9])
    assert latencies(schedule, [(5.0, 7, 0), (5.0, 8, 1)]) == [5.0, 4.0, math.inf, math.inf]
    assert answered(schedule, EVERYBODY, recording_of(schedule, [])).n_unanswered == 4


def test_a_document_read_before_its_announcement_is_dated_by_the_announcement():
    """Announced at 3 for write 0, but when it was fetched the answer to write 1, announced at 6, was there."""
    assert latencies(schedule_of([7, 7]), [(3.0, 7, 1), (6.0, 7, 1)]) == pytest.approx([6.0, 5.0])


def test_warm_writes_and_unwatched_vehicles_are_not_counted():
    schedule = schedule_of([0, 1, 2, 0, 1, 2], n_warm=3)
    answers = [(10.0 + i, v, i) for i, v in enumerate([0, 1, 2, 0, 1, 2])]
    samples = answered(schedule, Probes(["BUS-00000"], 2), recording_of(schedule, answers))
    assert samples.due_s == pytest.approx([0.003, 0.004])
    assert samples.latency_ms == pytest.approx([10.0, 10.0])
    assert len(samples.late_ms) == 3


def test_a_prediction_from_before_the_run_answers_nothing():
    schedule = schedule_of([0])
    recording = recording_of(schedule, [(1.0, 0, 0)])
    recording.documents[0] = b'{"source_timestamp":"2020-01-01T00:00:00.000000+00:00"}'
    assert answered(schedule, EVERYBODY, recording).n_unanswered == 1


def test_a_document_that_is_gone_answers_nothing():
    schedule = schedule_of([0])
    recording = recording_of(schedule, [(1.0, 0, 0), (2.0, 0, 0)])
    recording.documents[:] = [None, b"{}"]
    assert answered(schedule, EVERYBODY, recording).n_unanswered == 1
    assert source_stamp(b'{"source_timestamp":"x"}') == b"x"


def test_bare_announcements_answer_in_order():
    schedule = schedule_of([3, 4, 3])
    recording = recording_of(schedule, [(1.0, 3, 0), (3.0, 4, 0), (5.0, 3, 0)])
    assert announced(schedule, EVERYBODY, recording).latency_ms == pytest.approx([1.0, 2.0, 3.0])
    del recording.heard[-1]
    assert announced(schedule, EVERYBODY, recording).n_unanswered == 1


# -- percentiles and saturation -----------------------------------------------------------------------------------


def test_quantiles_are_samples():
    values = np.arange(1.0, 1_001.0)
    assert [quantile(values, q) for q in (0.5, 0.99, 0.999, 1.0)] == [500.0, 990.0, 999.0, 1_000.0]
    assert quantile(np.array([1.0, math.inf]), 0.5) == 1.0
    assert math.isinf(quantile(np.array([1.0, math.inf]), 0.99))
    assert math.isnan(quantile(np.array([]), 0.5))


def samples_of(latency_ms, late_ms=0.0):
    latency_ms = np.asarray(latency_ms, float)
    n = len(latency_ms)
    return Samples(np.arange(n) / 1e3, latency_ms, np.full(n, late_ms), n)


@pytest.mark.parametrize(
    ("latency_ms", "saturated"),
    [
        (np.full(100, 5.0), False),
        (np.full(100, 900.0), False),
        (np.full(100, 1_001.0), True),
        (np.linspace(5.0, 400.0, 100), True),
        (np.linspace(5.0, 40.0, 100), False),
        (np.r_[np.full(70, 5.0), np.full(30, 50.0)], False),
        (np.r_[np.full(99, 5.0), math.inf], True),
    ],
)
def test_saturation(latency_ms, saturated):
    assert samples_of(latency_ms).saturated is saturated


def test_changes_that_are_overtaken_are_not_kept_up_with():
    latency_ms = np.full(100, 5.0)
    assert not Samples(latency_ms, latency_ms, latency_ms, 91).saturated
    assert Samples(latency_ms, latency_ms, latency_ms, 89).saturated


def test_a_rate_that_redis_does_not_take_is_saturated():
    assert not samples_of(np.full(100, 150.0), late_ms=99.0).saturated
    assert samples_of(np.full(100, 150.0), late_ms=101.0).saturated


# -- the wire and the open loop -----------------------------------------------------------------------------------


def test_what_is_no_invalidation_of_keys_is_refused():
    assert announced_keys([b"invalidate", [b"a"]]) == [b"a"]
    for push in ([b"invalidate", None], [b"message", b"a"], [b"invalidate"]):
        with pytest.raises(RuntimeError, match="announced"):
            announced_keys(push)


def answer_everything(server, stop, stamps_of):
    """A loop in a few lines: what is announced gets a document with the snapshot's timestamp."""
    with Wire(server.socket_path) as hears, server.client() as client:
        hears.track(["vehicle:"])
        hears.socket.settimeout(0.05)
        stop.ready.set()
        while not stop.is_set():
            try:
                pushes = hears.receive()
            except TimeoutError:
                continue
            for key in [key for push in pushes for key in announced_keys(push)]:
                stamp = orjson.loads(client.get(key))["timestamp"].encode()
                stamps_of.append(stamp)
                client.set(
                    key.replace(b"vehicle:", b"predictions:"),
                    b'{"model_key":"%b","source_timestamp":"%b"}' % (client.get("eta:active_model") or b"old", stamp),
                )


@pytest.fixture
def answering(redis_server, redis_client):
    """A server with something that answers; the timestamps that it answered."""
    stop, stamps = threading.Event(), []
    stop.ready = threading.Event()
    thread = threading.Thread(target=answer_everything, args=(redis_server, stop, stamps), daemon=True)
    thread.start()
    assert stop.ready.wait(10)
    yield redis_server, stamps
    stop.set()
    thread.join()


def test_the_open_loop_writes_everything_and_dates_every_answer(answering):
    server, stamps = answering
    producer = Producer(50)
    schedule, probes = producer.schedule(500, 0.2), Probes(["BUS-00000"], 10)
    actions = [Action(0.1, ("SET", "eta:active_model", "new"))]
    with Wire(server.socket_path) as writing, Wire(server.socket_path) as reading:
        recording = OpenLoop(schedule, writing, reading, probes, actions=actions).run(10.0)
    samples = answered(schedule, probes, recording)
    assert samples.n_unanswered == 0
    assert len(samples.latency_ms) == 20
    watched = probes.are(schedule.vehicle_ix)
    assert set(stamps) >= set(iso_stamps(schedule.event_us[watched]))
    assert {key for _, key in recording.heard} == {prediction_key(ix) for ix in range(10)}
    (taken_ms,) = swap.taken_over(recording, ["new"])
    assert 0 < taken_ms < 1_000
    assert swap.taken_over(recording, ["newer"]) == [math.inf]


def test_nobody_answers(redis_server, redis_client):
    producer = Producer(10)
    schedule, probes = producer.schedule(1_000, 0.02), Probes.choose(1_000, 10)
    with Wire(redis_server.socket_path) as writing, Wire(redis_server.socket_path) as reading:
        recording = OpenLoop(schedule, writing, reading, probes).run(0.1)
    assert answered(schedule, probes, recording).n_unanswered == 20
    assert redis_client.dbsize() == 10


def test_a_refused_write_is_an_error(redis_server, redis_client):
    producer = Producer(10)
    schedule = producer.schedule(1_000, 0.02)
    actions = [Action(0.0, ("NO-SUCH-COMMAND", "x"))]
    with (
        Wire(redis_server.socket_path) as writing,
        Wire(redis_server.socket_path) as reading,
        pytest.raises(RuntimeError, match="ERR unknown command"),
    ):
        OpenLoop(schedule, writing, reading, Probes.choose(1_000, 10), actions=actions).run(5.0)


def test_the_bare_announcement(redis_server, redis_client):
    producer = Producer(100)
    schedule, probes = producer.schedule(2_000, 0.1), Probes(["BUS-"], 100)
    with Wire(redis_server.socket_path) as writing, Wire(redis_server.socket_path) as reading:
        recording = OpenLoop(schedule, writing, reading, probes, watch="vehicles").run(10.0)
    assert announced(schedule, probes, recording).n_unanswered == 0
    assert recording.documents == []


def test_the_real_loop_is_measured_and_gone_afterwards():
    producer = Producer(50)
    with stage(producer, Source("events"), registry_path()) as served:
        block = measure(served, producer, 200, 0.5)
        pids = [served.loop.pid, served.server.pid]
        assert all(cpu_s(pid) > 0 for pid in pids)
    assert block.samples.n_unanswered == 0
    assert len(block.samples.latency_ms) == 100
    assert set(block.cpu) == {"generator", "redis", "etacore", "others"}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_loop_that_ends_says_why(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"etacore run ended with 2:\n.*No trained models"),
        stage(Producer(10), Source("events"), tmp_path),
    ):
        pass


PROGRAM = """
import os, sys, time
from pathlib import Path
from benchmarks.fleet import registry_path
from benchmarks.freshness.processes import Source, end_on_sigterm, stage
from benchmarks.freshness.schedule import Producer
end_on_sigterm()
with stage(Producer(10), Source("events"), registry_path()) as served:
    print(served.loop.pid, served.server.pid, served.server.directory, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_benchmark_is_ended(number):
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        loop_pid, server_pid, _directory = program.stdout.readline().split()
        program.send_signal(number)
        assert program.wait(30) != 0
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
    for pid in map(int, (loop_pid, server_pid)):
        wait_until_gone(pid)


def wait_until_gone(pid):
    from benchmarks.freshness.processes import wait_until

    def is_gone():
        try:
            with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_until(is_gone)


# -- idle cost and swaps ------------------------------------------------------------------------------------------


def test_the_share_of_resyncs_is_in_the_ratio():
    loaded = np.array([[[0.02, 0.01], [0.02, 0.01]]] * 3)
    found = idle._summarize(loaded, np.array([[[0.0, 0.9], [0.0, 0.0]]]), 300.0)
    assert found.ratio_without_resync == pytest.approx(1.0)
    assert found.ratio == pytest.approx((0.03 + 0.9 / 300) / 0.03)
    assert found.with_keys == {"etacore": 0.02, "redis": 0.01}


def test_one_bad_window_does_not_decide():
    loaded = np.array([[[0.02, 0.01], [0.02, 0.01]]] * 2 + [[[0.5, 0.1], [0.02, 0.01]]])
    assert idle._summarize(loaded, np.zeros((1, 2, 2)), 300.0).ratio == pytest.approx(1.0)


def test_a_machine_without_a_cpu_to_spare_tells_nothing():
    loaded = np.full((3, 2, 2), float(len(os.sched_getaffinity(0))))
    found = idle._summarize(loaded, np.zeros((1, 2, 2)), 300.0)
    assert math.isnan(found.ratio)
    assert not judge({"idle_ratio": found.ratio}, read_limits())[0].within


def test_unrelated_keys_are_no_vehicles(redis_client):
    idle.add_unrelated_keys(redis_client, 25)
    assert redis_client.dbsize() == 25
    assert list(redis_client.scan_iter(match="vehicle:*")) == []


def test_seconds_around_swaps_and_usual_ones():
    due_s = np.arange(0.0, 9.0, 0.01)
    latency_ms = np.where((due_s >= 2.5) & (due_s < 3.5), 6.0, 2.0)
    samples = Samples(due_s, latency_ms, np.zeros(len(due_s)), len(due_s))
    found = swap._summarize("events", samples, [3.0, 6.0], [1.0, 1.0], 0, 0)
    assert found.usual_p99_ms == 2.0
    assert found.around_p99_ms == [6.0, 2.0]
    assert (found.ratio, found.worst_ratio) == (2.0, 3.0)


def test_polls_are_counted_from_the_log():
    log = "\n".join(f"INFO {n} polls in {s} s: 1 predicted" for n, s in [(1, 9), (1, 9), (5, 1.0), (3, 1.0), (6, 1.1)])
    assert swap.count_polls(log, 0.2) == (14, 2)


def test_two_models_that_differ():
    from etacore.models.registry import Registry

    registry = Registry(swap.two_models())
    assert registry.keys() == list(swap.KEYS)
    X = np.random.default_rng(1).random((50, 7)).astype(np.float32)
    both = []
    for key in swap.KEYS:
        out = np.empty(len(X), np.float32)
        registry.load(key).predict(X, out)
        both.append(out)
    assert not np.array_equal(*both)


# -- the report ---------------------------------------------------------------------------------------------------


def rate_of(latency_ms, source="events", rate_per_s=MAIN_RATE):
    return summarize(source, rate_per_s, [Block(samples_of(latency_ms), {"redis": 0.1, "others": 0.2})])


def findings_of(main_ms=0.5):
    main, bare = Main(rate_of(np.full(200, main_ms)), None), Main(rate_of(np.full(200, 0.1), "announcement"), None)
    contrast = rate_of(np.linspace(1, 1_000, 200), "poll every 1 s")
    rates = [rate_of(np.full(100, 2.0), rate_per_s=100), rate_of([1.0, math.inf], rate_per_s=80_000)]
    return Findings(MACHINE, main, bare, contrast, rates=rates)


def test_blocks_are_pooled():
    blocks = [Block(samples_of(np.full(100, ms)), {"others": share}) for ms, share in ((3.0, 0.3), (1.0, 0.1))]
    found = summarize("events", 2_000, blocks)
    assert (found.p50_ms, found.p99_ms, found.n_watched) == (1.0, 3.0, 200)
    assert found.blocks == [Stretch(3.0, 3.0, 0.3), Stretch(1.0, 1.0, 0.1)]
    assert found.cpu == {"others": pytest.approx(0.2)}
    assert len(found.curve_ms) == len(CURVE)


@pytest.mark.parametrize(("n_quiet", "p99_ms"), [(2, 9.0), (3, 1.0)])
def test_quiet_stretches_are_chosen_by_what_others_do(n_quiet, p99_ms):
    quiet = [Block(samples_of(np.full(100, 1.0)), {"others": 0.2})] * n_quiet
    noisy = [Block(samples_of(np.full(100, ms)), {"others": 1.5}) for ms in (0.1, 9.0)]
    main = choose_quiet("events", quiet + noisy)
    assert len(main.all.blocks) == n_quiet + 2
    assert main.best_known.p99_ms == p99_ms
    assert figures(Findings(MACHINE, main=main))["freshness_p99_ms"] == p99_ms
    page = markdown(Findings(MACHINE, main=main), [])
    assert ("| events, quiet |" in page) is (n_quiet == 3)


@pytest.mark.parametrize(
    ("measured", "met", "within", "text"),
    [
        (2.0, True, True, "met"),
        (3.0, False, True, "missed by 50%"),
        (9.0, False, False, "missed by 350%"),
        (math.nan, False, False, "missed by inf"),
    ],
)
def test_a_figure_is_met_missed_or_above_its_ceiling(measured, met, within, text):
    (verdict,) = judge({"k": measured}, [Limit("n", "k", "ms", 2.0, 8.0), Limit("o", "other", "", 0, 0)])
    assert (verdict.met, verdict.within, verdict.text) == (met, within, text)


def test_the_limits_hold_what_was_promised():
    assert {limit.key: limit.expected for limit in read_limits()} == {
        "freshness_p50_ms": 0.8,
        "freshness_p99_ms": 3.0,
        "unanswered": 0,
        "idle_ratio": 1.1,
        "swap_ratio": 3.0,
        "swap_unanswered": 0,
        "polls_lost": 0,
    }
    assert all(limit.ceiling >= limit.expected for limit in read_limits())


def test_only_rates_beyond_saturation_may_leave_changes_unanswered():
    assert figures(findings_of()) == {"freshness_p50_ms": 0.5, "freshness_p99_ms": 0.5, "unanswered": 0}
    assert figures(findings_of(math.inf))["unanswered"] == 200


def test_the_report_has_everything_and_is_strict_json():
    findings = findings_of()
    findings.resync = rate_of(np.full(100, 70.0), "events, resync")
    findings.idle = idle._summarize(np.full((3, 2, 2), 0.01), np.zeros((1, 2, 2)), 300.0)
    samples = Samples(np.arange(0.0, 9.0, 0.01), np.full(900, 2.0), np.zeros(900), 900)
    findings.swap = swap._summarize("events", samples, [3.0], [1.0], 0, 0)
    findings.swap_polling = swap._summarize("poll every 0.2 s", samples, [3.0], [1.0], 40, 1)
    verdicts = judge(figures(findings), read_limits())
    assert [v.limit.key for v in verdicts] == [limit.key for limit in read_limits()]
    assert [v.text for v in verdicts if not v.met] == ["missed by 1"]
    text = json.dumps(as_json(findings, verdicts), allow_nan=False)
    assert json.loads(text)["rates"][1]["max_ms"] is None
    page = markdown(findings, verdicts)
    for expected in ("| events | 2 000 | 0.50 |", "(saturated) | 80 000", "40 polls, 1 lost", "| met |", "2 of 4 CPUs"):
        assert expected in page


def test_the_picture_is_a_picture():
    assert draw(findings_of()).startswith(b"\x89PNG")
    assert draw(Findings(MACHINE, main=findings_of().main)).startswith(b"\x89PNG")


def test_the_machine_is_described():
    machine = describe_machine("python -m x", [0])
    assert machine["redis_server"][0].isdigit()
    assert set(machine) == set(MACHINE)


def test_rates_are_in_order_with_the_announcement_first_and_the_contrast_last():
    rates = findings_of().all_rates()
    assert [rate.rate_per_s for rate in rates] == [2_000, 100, 2_000, 80_000, 2_000]
    assert [rates[0].source, rates[-1].source] == ["announcement", "poll every 1 s"]
