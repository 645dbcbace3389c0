"""Which vehicles are served when: with a clock, a store and a feed that do as they are told."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from etacore.config import RuntimeConfig
from etacore.errors import ConfigError, RedisUnavailableError, TrackingUnavailableError
from etacore.loop import schedule as module
from etacore.loop.observer import PollResult
from etacore.loop.schedule import (
    BESIDE,
    MAX_WAIT_S,
    RETRY_S,
    SET_ASIDE_S,
    Announced,
    Polling,
    SetAside,
    open_schedule,
)
from etacore.status import Status
from etacore.store.changes import Changes


class Clock:
    now = 1_000.0
    step = 0.0  # by each look at it

    def __call__(self):
        self.now += self.step
        return self.now


class Store:
    """Keys that SCAN finds."""

    where = "here"

    def __init__(self, *keys):
        self.keys = list(keys)
        self.n_scans = 0
        self.piece = None

    def scan_vehicle_keys(self):
        self.n_scans += 1
        return list(self.keys)

    def search_vehicle_keys(self, cursor):
        """All in one piece, or in as many as `piece` makes of them."""
        self.n_scans += cursor == 0
        end = cursor + (self.piece or len(self.keys))
        return (end if end < len(self.keys) else 0), self.keys[cursor:end]


class Feed:
    """Announcements; waiting takes its time."""

    def __init__(self, clock):
        self.clock = clock
        self.waited = []
        self.is_closed = False
        self.n_reconnects = 0
        self.clear()

    def clear(self):
        self.vehicles, self.routes, self.models, self.lost = [], [], False, False

    def wait(self, timeout_s):
        assert timeout_s > 0
        self.waited.append(timeout_s)
        if not (self.vehicles or self.routes or self.models or self.lost):
            self.clock.now += timeout_s
            return False
        return True

    def take(self):
        changes = Changes(self.vehicles, self.routes, self.models, self.lost)
        self.clear()
        return changes

    def reconnect(self):
        self.n_reconnects += 1

    def close(self):
        self.is_closed = True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def announced(clock, *keys, **changes):
    store, feed = Store(*keys), Feed(clock)
    return Announced(RuntimeConfig(**changes), store, feed), store, feed


def up(clock, *keys, **changes):
    """A schedule that has looked at everything once."""
    schedule, store, feed = announced(clock, *keys, **changes)
    assert schedule.wait(STOP) == 0.0
    assert schedule.take_model()
    assert schedule.take() == list(keys)
    schedule.wait(STOP)
    schedule.take_model()
    return schedule, store, feed


STOP = threading.Event()


def turn(schedule):
    """Keys of a turn, as the loop takes them; None if there is nothing to do yet."""
    is_due = schedule.wait(STOP) is not None
    schedule.take_model()
    schedule.sum_up(None)
    return schedule.take() if is_due else None


def next_turn(schedule):
    for _ in range(10_000):
        if (keys := turn(schedule)) is not None:
            return keys
    pytest.fail("there is no turn")


# -- announced --------------------------------------------------------------------------------------------------------


def test_everything_is_looked_at_first(clock):
    schedule, store, feed = announced(clock, b"a", b"b")
    assert schedule.wait(STOP) == 0.0
    assert not feed.waited
    assert schedule.take() == [b"a", b"b"]
    assert store.n_scans == 1


def test_what_is_announced_is_served_once_in_its_order(clock):
    schedule, store, feed = up(clock, b"a", b"b", b"c")
    feed.vehicles = [b"c", b"new", b"a"]
    assert schedule.wait(STOP) == 0.0
    feed.vehicles = [b"a", b"b"]
    schedule.listen()
    assert schedule.take() == [b"c", b"new", b"a", b"b"]
    assert schedule.wait(STOP) is None
    assert store.n_scans == 1


def test_what_is_announced_during_a_turn_is_served_in_the_next(clock):
    schedule, _, feed = up(clock, b"a")
    feed.vehicles = [b"a"]
    schedule.wait(STOP)
    assert schedule.take() == [b"a"]
    feed.vehicles = [b"a"]
    schedule.listen()
    feed.waited.clear()
    assert schedule.wait(STOP) == 0.0
    assert not feed.waited
    assert schedule.take() == [b"a"]


@pytest.mark.parametrize("interval_s", [0, 0.001, 1, 3_600])
def test_an_idle_source_always_waits(clock, interval_s):
    schedule, _, feed = up(clock, b"a", poll_interval_seconds=interval_s)
    n_polls = 0
    began = clock.now
    feed.waited.clear()
    for _ in range(1_000):
        assert schedule.wait(STOP) is None
        n_polls += schedule.sum_up(None) is not None
        if clock.now - began > 50:
            break
    assert clock.now - began > 10
    assert n_polls <= (clock.now - began) / max(interval_s, 0.1) + 1
    assert max(feed.waited) <= MAX_WAIT_S


def test_an_idle_source_waits_until_the_next_thing_is_due_and_no_longer(clock):
    source, _, feed = up(clock, b"a", predictions_ttl_seconds=40, poll_interval_seconds=3_600)
    clock.now = Clock.now + source.every_s - 0.05
    assert source.wait(STOP) == 0.0
    assert feed.waited[-1] == pytest.approx(0.05)
    assert source.take() == [b"a"]
    source.wait(STOP)
    assert feed.waited[-1] == MAX_WAIT_S


def test_one_that_is_told_to_stop_does_not_wait(clock):
    schedule, _, feed = up(clock)
    feed.waited.clear()
    stop = threading.Event()
    stop.set()
    assert schedule.wait(stop) is None
    assert not feed.waited


def test_the_known_are_looked_at_again_in_time_and_searched_for_at_intervals(clock):
    schedule, store, _ = up(
        clock, b"a", b"b", predictions_ttl_seconds=40, resync_seconds=25, poll_interval_seconds=3_600
    )
    assert schedule.every_s == 10
    began, store.keys = clock.now, [b"a", b"b", b"c"]
    turns = []
    while clock.now < began + 50:
        if (keys := turn(schedule)) is not None:
            turns.append((round(clock.now - began), keys))
    known, all_keys = [b"a", b"b"], [b"a", b"b", b"c"]
    assert turns == [(10, known), (20, known), (25, all_keys), (35, all_keys), (45, all_keys), (50, all_keys)]
    assert store.n_scans == 3


def test_a_recheck_is_one(clock):
    schedule, store, _ = up(clock, b"a", b"b")
    schedule.recheck()
    assert schedule.wait(STOP) == 0.0
    assert schedule.take() == [b"a", b"b"]
    assert schedule.wait(STOP) is None
    assert store.n_scans == 1


def test_keys_that_are_gone_are_not_looked_at_again(clock):
    schedule, _, feed = up(clock, b"a", b"b", b"c")
    feed.vehicles = [b"b"]
    schedule.listen()
    schedule.is_gone([b"a", b"b", b"x"])  # b has been written since
    assert schedule.take() == [b"b"]
    schedule.recheck()
    assert schedule.take() == [b"b", b"c"]


def test_what_scan_passes_over_stays_known(clock):
    schedule, store, feed = up(clock, b"a")
    store.keys = [b"a"]
    feed.vehicles = [b"new"]
    schedule.listen()
    clock.now += RETRY_S
    schedule.restart()
    assert schedule.take() == [b"new", b"a"]
    schedule.recheck()
    assert sorted(schedule.take()) == [b"a", b"new"]


def test_what_was_put_off_comes_back(clock):
    schedule, _, _ = up(clock, b"a", b"b", b"c")
    schedule.put_off([])
    schedule.put_off([b"a"])
    clock.now += RETRY_S / 2
    schedule.put_off([b"a", b"b"])
    began = clock.now
    assert next_turn(schedule) == [b"a", b"b"]
    assert clock.now - began <= RETRY_S
    assert turn(schedule) is None


def test_after_an_outage_all_keys_are_searched_for_but_not_all_the_time(clock):
    schedule, store, feed = up(clock, b"a")
    began = clock.now
    for n_scans in (2, 3, 4):
        feed.lost = True
        assert next_turn(schedule) == [b"a"]
        assert store.n_scans == n_scans
    assert 3 * RETRY_S - 1e-6 <= clock.now - began <= 3 * RETRY_S + MAX_WAIT_S


def test_a_long_poll_interval_does_not_put_the_search_off(clock):
    schedule, _, feed = up(clock, b"a", poll_interval_seconds=3_600)
    feed.lost = True
    began = clock.now
    assert next_turn(schedule) == [b"a"]
    assert clock.now - began <= RETRY_S + MAX_WAIT_S


def test_a_failing_search_loses_nothing(clock, monkeypatch):
    schedule, store, feed = announced(clock, b"a")
    feed.vehicles = [b"b"]
    schedule.listen()

    def fail(cursor):
        raise RedisUnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(store, "search_vehicle_keys", fail)
        with pytest.raises(RedisUnavailableError):
            schedule.take()
    schedule.restart()
    assert schedule.take() == [b"b", b"a"]


def test_nobody_who_is_announced_waits_for_a_search(clock):
    schedule, store, feed = announced(clock, b"a", b"b", b"c", b"d", b"e")
    store.piece = 2
    assert schedule.take() == [b"a", b"b"]
    feed.vehicles = [b"new", b"d"]
    assert schedule.wait(STOP) == 0.0
    assert schedule.take() == [b"new", b"d", b"c"]
    assert schedule.wait(STOP) == 0.0
    assert not feed.waited
    assert schedule.take() == [b"e"]
    schedule.take_model()
    assert schedule.wait(STOP) is None
    schedule.recheck()
    assert sorted(schedule.take()) == [b"a", b"b", b"c", b"d", b"e", b"new"]


def test_after_an_outage_a_search_goes_on_and_another_one_follows(clock):
    schedule, store, _ = announced(clock, b"a", b"b", b"c")
    store.piece = 2
    assert schedule.take() == [b"a", b"b"]
    schedule.restart()
    assert schedule.take() == [b"c"]
    clock.now += RETRY_S
    assert schedule.take() == [b"a", b"b"]
    assert schedule.take() == [b"c"]
    assert store.n_scans == 2


def test_losses_again_and_again_keep_no_key_from_being_found(clock):
    schedule, store, feed = announced(clock, b"a", b"b", b"c")
    store.piece = 1
    found = []
    for _ in range(6):
        feed.lost = True
        found += next_turn(schedule)
        clock.now += RETRY_S
    assert found == [b"a", b"b", b"c"] * 2


def test_the_known_are_looked_at_a_piece_at_a_time(clock):
    keys = [b"%d" % i for i in range(2 * BESIDE + 5)]
    schedule, _, feed = announced(clock, *keys)
    assert schedule.take() == keys[:BESIDE]
    feed.vehicles = [b"new"]
    assert schedule.wait(STOP) == 0.0
    assert schedule.take() == [b"new", *keys[BESIDE : 2 * BESIDE]]
    assert schedule.wait(STOP) == 0.0
    assert schedule.take() == keys[2 * BESIDE :]


def test_an_outage_reconnects_the_feed_and_a_loss_does_not(clock):
    schedule, _, feed = up(clock, b"a")
    feed.lost = True
    schedule.listen()
    assert feed.n_reconnects == 0
    schedule.restart()
    assert feed.n_reconnects == 1


def test_a_cap_serves_the_longest_waiting_first(clock):
    schedule, _, feed = announced(clock, *(b"%d" % i for i in range(7)), max_vehicle_batch=3)
    assert schedule.take() == [b"0", b"1", b"2"]
    feed.vehicles = [b"0", b"6"]
    assert schedule.wait(STOP) == 0.0
    assert schedule.take() == [b"3", b"4", b"5"]
    assert schedule.wait(STOP) == 0.0
    assert schedule.take() == [b"6", b"0"]


def test_routes_and_models_are_told_once(clock):
    schedule, _, feed = up(clock)
    feed.routes, feed.models = [b"r1", b"r2"], True
    assert schedule.wait(STOP) is None
    feed.routes = [b"r3"]
    schedule.listen()
    assert schedule.take_routes() == [b"r1", b"r2", b"r3"]
    assert schedule.take_routes() == []
    assert schedule.take_model()
    assert not schedule.take_model()


def test_turns_are_summed_up(clock):
    schedule, _, _ = up(clock, b"a", b"b", poll_interval_seconds=5)
    for n in (1, 2):
        assert schedule.sum_up(PollResult(n, Counter({Status.OK: n}), 0.25)) is None
    clock.now += 5
    assert schedule.sum_up(None) == PollResult(2, Counter({Status.OK: 3}), 0.5)
    assert schedule.sum_up(None) is None
    assert schedule.sum_up(None, is_last=True) is None
    schedule.sum_up(PollResult(1, Counter({Status.OK: 1}), 0.5))
    assert schedule.sum_up(None, is_last=True) == PollResult(2, Counter({Status.OK: 1}), 0.5)


def test_closing_closes_the_feed(clock):
    schedule, _, feed = announced(clock)
    schedule.close()
    assert feed.is_closed


# -- polling ----------------------------------------------------------------------------------------------------------


def test_polling_keeps_its_beat(clock, monkeypatch):
    schedule = Polling(RuntimeConfig(poll_interval_seconds=2), Store(b"a"))
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", lambda seconds: setattr(clock, "now", clock.now + seconds))
    began, lates = clock.now, []
    for took_s in (0.5, 3.0, 0.5, 0.0):
        lates.append((schedule.wait(stop), clock.now - began))
        assert schedule.take() == [b"a"]
        clock.now += took_s
    assert lates == [(0.0, 0.0), (0.0, 2.0), (0.0, 6.0), (0.0, 8.0)]
    schedule.restart()
    assert schedule.wait(stop) == 0.0


def test_polling_without_an_interval_does_not_wait(clock):
    schedule = Polling(RuntimeConfig(poll_interval_seconds=0), Store())
    assert [schedule.wait(STOP) for _ in range(3)] == [0.0] * 3


def capped(clock, limit, *keys, **changes):
    """A polling source that may serve so many in a turn, and what it takes in each, one second apart."""
    store = Store(*keys)
    source = Polling(RuntimeConfig(max_vehicle_batch=limit, **changes), store)
    clock.step = 1e-3

    def take():
        clock.now += 1
        return source.take()

    return source, store, take


def test_newcomers_wait_behind_those_who_wait_already(clock):
    _, store, take = capped(clock, 2, b"a", b"b", b"c", b"d", b"e")
    assert take() == [b"a", b"b"]
    assert take() == [b"c", b"d"]
    store.keys = [b"new", b"e", b"d", b"c", b"b", b"a"]
    assert take() == [b"e", b"b"]
    store.keys = [b"newer", *store.keys]
    assert take() == [b"a", b"d"]
    assert take() == [b"c", b"new"]  # seen before the last turn of e and b, and c served before
    assert take() == [b"e", b"b"]
    assert take() == [b"newer", b"d"]


@pytest.mark.parametrize("limit", [7, 8, 9, None])
def test_without_a_need_for_turns_all_are_served_in_the_order_found(clock, limit):
    keys = [b"%d" % i for i in range(7)]
    _, store, take = capped(clock, limit, *keys)
    assert take() == keys
    store.keys = keys[::-1]
    assert take() == keys[::-1]


def test_one_that_went_away_keeps_its_place_for_a_while_only(clock):
    source, store, take = capped(clock, 1, *(b"%d" % i for i in range(6)), state_retention_seconds=50)
    assert [take() for _ in range(3)] == [[b"0"], [b"1"], [b"2"]]
    store.keys = [b"0", b"1"]
    assert take() == [b"0"]
    assert set(source._served_at) == {b"%d" % i for i in range(6)}
    store.keys = [b"5", b"0", b"1"]
    assert take() == [b"5"]  # has waited since the first turn
    clock.now += 50
    store.keys = [b"new", b"5"]
    assert take() == [b"5"]
    assert set(source._served_at) == {b"new", b"5"}


def test_those_who_are_there_keep_their_place_however_long_they_have_waited(clock):
    """As after an outage that was longer than anything is remembered, with a smaller fleet."""
    source, store, take = capped(clock, 1, *(b"%d" % i for i in range(6)), state_retention_seconds=50)
    assert [take() for _ in range(2)] == [[b"0"], [b"1"]]
    clock.now += 1_000
    store.keys = [b"new", b"1"]
    assert take() == [b"1"]
    assert set(source._served_at) == {b"new", b"1"}
    assert take() == [b"new"]


def test_every_turn_of_polling_is_a_poll(clock):
    schedule = Polling(RuntimeConfig(), Store())
    turn = PollResult(1, Counter(), 0.5)
    assert schedule.sum_up(turn) is turn
    assert schedule.sum_up(None, is_last=True) is None
    assert schedule.take_model()
    assert schedule.take_routes() == []
    for nothing in (schedule.listen, schedule.recheck, schedule.close):
        nothing()
    schedule.is_gone([b"a"])
    schedule.put_off([b"a"])


# -- which of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "iterations", "kind"),
    [
        ("auto", 0, Announced),
        ("auto", 3, Polling),
        ("events", 0, Announced),
        ("events", 3, Announced),
        ("poll", 0, Polling),
        ("poll", 3, Polling),
    ],
)
def test_what_is_asked_for(asked, iterations, kind, clock, monkeypatch):
    monkeypatch.setattr(module, "ChangeFeed", lambda config: Feed(clock))
    assert type(open_schedule(RuntimeConfig(snapshot_source=asked, iterations=iterations), Store())) is kind


@pytest.mark.parametrize("asked", ["auto", "events"])
def test_where_there_are_no_events_one_line_says_why(asked, monkeypatch, caplog):
    def refuse(config):
        raise TrackingUnavailableError("this server is too old", hint="etacore polls instead")

    monkeypatch.setattr(module, "ChangeFeed", refuse)
    assert type(open_schedule(RuntimeConfig(snapshot_source=asked), Store())) is Polling
    assert [record.getMessage() for record in caplog.records] == ["this server is too old; etacore polls instead"]


@pytest.mark.parametrize("error", [RedisUnavailableError("gone"), ConfigError("refused")])
def test_other_errors_are_not_taken_for_a_missing_feature(error, monkeypatch):
    def fail(config):
        raise error

    monkeypatch.setattr(module, "ChangeFeed", fail)
    with pytest.raises(type(error)):
        open_schedule(RuntimeConfig(snapshot_source="auto"), Store())


def test_keys_are_set_aside_for_a_while(clock):
    aside = SetAside()
    assert aside.sort([b"a"]) == ([b"a"], [], Counter())
    aside.add(b"a", Status.WRONG_TYPE)
    aside.add(b"c", Status.TOO_LARGE)
    assert aside.sort([b"b", b"d"]) == ([b"b", b"d"], [], Counter())
    reasons = Counter({Status.WRONG_TYPE: 1, Status.TOO_LARGE: 1})
    assert aside.sort([b"a", b"b", b"c"]) == ([b"b"], [b"a", b"c"], reasons)
    clock.now += 1.5 * SET_ASIDE_S
    assert aside.sort([b"a", b"b", b"c"]) == ([b"a", b"b", b"c"], [], Counter())
    assert len(aside) == 0


def test_what_was_set_aside_is_forgotten_though_it_is_never_asked_for_again(clock):
    aside = SetAside()
    for i in range(1_000):
        aside.add(b"%d" % i, Status.WRONG_TYPE)
        aside.sort([b"other"])
        clock.now += 1
    assert len(aside) <= 1.6 * SET_ASIDE_S + 1
