"""Scripts that the server stops on their way: nothing is lost, nothing ends twice, nobody else's request is touched.

Generated, not written: each flow of requests (``FLOWS``) is brought to each act of its life (``ACTS``); what commands
that act sends is read from the server's own counts; then it is done again, once for each command, by a user that may
not send that one. The right comes back, sweeps go on beside a healthy worker, and what must hold is looked at.
"""

import contextlib
import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from redis.commands.core import AsyncScript, Script
from redis.exceptions import RedisError

from pipeline.contracts.problems import Problem
from pipeline.contracts.stages import Stage, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import Attempts, Completed, Ended, Outcome, Output, RetryLater
from pipeline.ledger import keys
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, SubmissionBatch, idempotency
from pipeline.ledger.records import unpack_entry
from pipeline.ledger.recovery import fan_out, release_claims
from pipeline.ledger.rights import scripted
from pipeline.ledger.scripts import SCRIPTS, source
from pipeline.ledger.sweeper.repairs import Repairs
from pipeline.ledger.workers import claims
from pipeline.ledger.workers.claims import Batch, ClaimLost, Claims
from pipeline.sweeper.loop import Sweeper
from tests.support.ledger import Ledger, LedgerMaker, SteppedClock, dead

USER = "exact"
"""The user that may do what the ledger needs, and no more (see conftest.py)."""
MAY_STAY = {
    "audit", "beats", "bells", "clock", "confirm", "counts", "dead", "due", "epoch", "events", "firsts", "lanes",
    "medians", "offset", "paces", "postprocess", "preprocess", "rates", "releases", "retried", "rung", "scoring",
    "settled", "work", "workers", "xi", "xs",
}  # fmt: skip
"""Keys without a life of their own when all work is done, as the legend in keys.py allows."""
NEVER_REFUSED = {"evalsha", "eval", "script|load", "config|resetstat", "info", "acl|setuser", "hello", "client|setinfo"}
BOOM = Failure(category="unknown", stage="scoring", message="boom", retryable=True)
DELAY_S = 2


@dataclass
class Scene:
    """A ledger with some requests in it, on which one act is done."""

    ledger: Ledger
    admin: Any
    worker: Claims
    submission_batches: list[SubmissionBatch] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    batch: Batch | None = None
    waiting: list[tuple[Claims, Stage]] = field(default_factory=list)
    may_be: set[str] = field(default_factory=lambda: {"succeeded"})
    names: Any = field(default_factory=lambda: itertools.count(1))
    unsure: bool = False
    clock: SteppedClock = field(default_factory=SteppedClock)

    def __post_init__(self) -> None:
        self.sweeper = Sweeper(self.ledger.own, self.ledger.settings, self.clock)

    def accept(self, *submissions: Submission) -> None:
        self.submission_batches.append(SubmissionBatch(submissions))
        self.send()

    def send(self) -> None:
        """Send the latest submission_batch (again)."""
        answers = self.ledger.run(self.ledger.producing.send(self.submission_batches[-1]))
        for answer in answers:
            assert isinstance(answer, Accepted | Known), answer
            if answer.id not in self.ids:
                self.ids.append(answer.id)

    def give_up(self) -> None:
        """What the latest submission_batch has come to is not asked any more: its requests may be accepted or not."""
        self.submission_batches.pop()
        self.unsure = True

    @contextlib.contextmanager
    def refused(self, command: str | None) -> Iterator[None]:
        """Meanwhile the ledger's user may not send this command."""
        if command is None:
            yield
            return
        self.admin.execute_command("ACL", "SETUSER", USER, f"-{command}")
        try:
            yield
        finally:
            self.admin.execute_command("ACL", "SETUSER", USER, f"+{command}")

    def claim(self, stage: Stage) -> Batch:
        self.batch = self.ledger.claim(self.worker, stage)
        assert self.batch is not None
        return self.batch

    def settle(self, outcome: Callable[[Any], Outcome], *, claim_next: int = 0) -> None:
        batch = self.batch
        assert batch is not None
        self.worker.settle(batch, [outcome(work) for work in batch.works], claim_next=claim_next, model_runs={"m@1": 1})

    def bring_to(self, stage: Stage) -> None:
        """Let all requests pass the stages before this one."""
        for earlier in list(Stage)[: list(Stage).index(stage)]:
            while (batch := self.ledger.claim(self.worker, earlier)) is not None:
                self.complete(self.worker, batch)

    def park(self, stage: Stage) -> None:
        """A worker waits for work of this stage's lane."""
        worker = self.ledger.worker(f"parked{next(self.names)}")
        lane = self.ledger.lane(stage)
        worker._waiter = worker._waiter_for(lane, worker._name(), worker._field(), 64)
        assert self.ledger.scripts.park(args=[worker._waiter.entry]) == b"parked"
        self.waiting.append((worker, stage))

    def recover(self) -> None:
        """What goes on by itself: the sweeper, a healthy worker, those that wait; time passes."""
        healthy = self.ledger.worker("healthy")
        for worker, stage in self.waiting:
            woken = worker.park(self.ledger.lane(stage), 64, 0.001)
            if isinstance(woken, Batch):
                self.complete(worker, woken)
        self.waiting.clear()  # they have left
        for round_ in range(8):
            self.sweeper.sweep()
            if round_ > 1 and not self.ledger.leftovers():
                break
            for stage in Stage:
                while (batch := self.ledger.claim(healthy, stage)) is not None:
                    self.complete(healthy, batch)
            self.clock.now += DELAY_S
            self.ledger.turn_clock(DELAY_S)
            self.ledger.scripts.heartbeat(args=["healthy", "{}", "0"])

    def complete(self, worker: Claims, batch: Batch) -> None:
        with contextlib.suppress(ClaimLost):
            worker.settle(batch, [completed(work) for work in batch.works], claim_next=0, model_runs={})

    def ends(self) -> Counter[tuple[bytes, int]]:
        """How often each generation of each request has ended, as the ledger has logged it."""
        counted: Counter[tuple[bytes, int]] = Counter()
        for _, entry in self.admin.xrange(keys.EVENTS):
            for name, value in entry.items():
                if len(name) == 16 and name not in (b"incarnation",):
                    counted[name, unpack_entry(value).header.generation] += 1
        return counted

    def check(self, *, logged: bool) -> None:
        """Each request has ended, once, as it may; nothing is left but what the legend allows."""
        states = dict(zip(self.ids, self.ledger.states(*self.ids), strict=True))
        assert set(states.values()) <= self.may_be, states
        ends = self.ends()
        assert set(ends.values()) <= {1}, "ended twice"
        if logged:
            ended = {request_id for request_id, _ in ends}
            assert ended >= set(self.ids), "accepted, and no end is logged"
            assert self.unsure or ended == set(self.ids), "an end of what was not accepted"
        letters = {died for letter in self.ledger.run(self.ledger.letters.page())[0] for died in letter.died}
        assert {each for each, state in states.items() if state == "dead"} <= letters, "dead without a letter"
        names = list(self.admin.scan_iter(f"{TAG}*", count=1000))
        pipe = self.admin.pipeline(transaction=False)
        for name in names:
            pipe.pttl(name)
        staying = {name for name, life in zip(names, pipe.execute(), strict=True) if life == -1}
        assert staying <= {f"{TAG}{name}".encode() for name in MAY_STAY}
        kept = self.admin.hgetall(f"{TAG}xs")
        assert int(kept.pop(b"", 0)) == sum(map(int, kept.values())), "the cache's count of bytes has drifted"


def completed(work: Any) -> Outcome:
    return Completed(Output({"n": 1} if work is None else work.body))


def again(work: Any) -> Outcome:
    return RetryLater(1000 * DELAY_S, Attempts().charge(1, "scoring", "unknown", "boom"))


def died(work: Any) -> Outcome:
    return dead()


def invalid(work: Any) -> Outcome:
    return Ended(State.INVALID, BOOM)


# Flows: what the requests of a scene are.


def alone(scene: Scene) -> None:
    scene.accept(Submission("m", {"n": 1}), Submission("m", {"n": 2}, no_cache=True))


def joined(scene: Scene) -> None:
    scene.accept(Submission("m", {"n": 1}))
    scene.accept(Submission("m", {"n": 1}), Submission("m", {"n": 1}, timeout_ms=7_200_000))


def keyed(scene: Scene) -> None:
    for n, tenant in ((1, b"o" * 8), (2, b"p" * 8)):
        key = idempotency("", f"k{n}", "m", {"n": n}, "normal", 1.0)
        scene.accept(Submission("m", {"n": n}, key=key, tenant=tenant))


def retried(scene: Scene) -> None:
    alone(scene)
    scene.claim(Stage.PREPROCESS)
    scene.settle(again)
    scene.ledger.turn_clock(2 * DELAY_S)
    scene.ledger.sweeping.requeue_due_retries()


def suspect(scene: Scene) -> None:
    alone(scene)
    scene.claim(Stage.PREPROCESS)
    release_claims(scene.ledger.scripts, "w1", charge="start", reason="died")


def replayed(scene: Scene) -> None:
    joined(scene)
    scene.claim(Stage.PREPROCESS)
    scene.settle(died)
    scene.ledger.run(scene.ledger.letters.replay(scene.ids[0]))


FLOWS = {flow.__name__: flow for flow in (alone, joined, keyed, retried, suspect, replayed)}


# Acts: what is done once, with a command refused. Each prepares the scene and gives what to do.

Act = Callable[[Scene], Callable[[], Any]]
ACTS: dict[str, Act] = {}


def act(name: str) -> Callable[[Act], Act]:
    def add(make: Act) -> Act:
        ACTS[name] = make
        return make

    return add


def _of_stage(stage: Stage) -> None:
    @act(f"claim-{stage}")
    def _claim(scene: Scene) -> Callable[[], Any]:
        scene.bring_to(stage)
        return lambda: scene.claim(stage)

    @act(f"complete-{stage}")
    def _complete(scene: Scene) -> Callable[[], Any]:
        scene.bring_to(stage)
        scene.claim(stage)
        return lambda: scene.settle(completed)

    @act(f"complete-{stage}-and-go-on")
    def _go_on(scene: Scene) -> Callable[[], Any]:
        scene.bring_to(stage)
        scene.claim(stage)
        following = stage.following
        if following is not None:
            scene.park(following)
        return lambda: scene.settle(completed, claim_next=64)

    @act(f"retry-{stage}")
    def _retry(scene: Scene) -> Callable[[], Any]:
        scene.bring_to(stage)
        scene.claim(stage)
        return lambda: scene.settle(again)

    @act(f"die-{stage}")
    def _die(scene: Scene) -> Callable[[], Any]:
        scene.bring_to(stage)
        scene.claim(stage)
        scene.may_be |= {"dead"}
        return lambda: scene.settle(died)

    @act(f"release-{stage}")
    def _release(scene: Scene) -> Callable[[], Any]:
        scene.bring_to(stage)
        scene.claim(stage)
        return lambda: release_claims(scene.ledger.scripts, "w1", charge="start", reason="died", fence=True)

    @act(f"requeue-{stage}")
    def _requeue(scene: Scene) -> Callable[[], Any]:
        scene.bring_to(stage)
        scene.claim(stage)
        scene.settle(again)
        scene.ledger.turn_clock(2 * DELAY_S)
        return scene.ledger.sweeping.requeue_due_retries

    @act(f"replay-{stage}")
    def _replay(scene: Scene) -> Callable[[], Any]:
        scene.bring_to(stage)
        scene.claim(stage)
        scene.settle(died)
        scene.may_be |= {"dead"}
        letters = scene.ledger.letters
        return lambda: scene.ledger.run(letters.replay(scene.ids[0]))


for each in Stage:
    _of_stage(each)


@act("refuse-input")
def _invalid(scene: Scene) -> Callable[[], Any]:
    scene.claim(Stage.PREPROCESS)
    scene.may_be |= {"invalid"}
    return lambda: scene.settle(invalid)


@act("fan-out")
def _fan(scene: Scene) -> Callable[[], Any]:
    scene.bring_to(Stage.POSTPROCESS)
    scene.claim(Stage.POSTPROCESS)
    flight = scene.batch.works[0].id if scene.batch else b""

    def forgets(*_: object) -> int:
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.ledger.workers.claims.fan_out", forgets)
        scene.settle(completed)
    return lambda: fan_out(scene.ledger.scripts, scene.ledger.settings, flight)


def _cancels(name: str, which: int, stage: Stage) -> None:
    @act(f"cancel-{name}-before-{stage}")
    def _cancel(scene: Scene) -> Callable[[], Any]:
        scene.bring_to(stage)
        scene.may_be |= {"cancelled"}
        return lambda: scene.ledger.run(scene.ledger.producing.cancel(scene.ids[which]))


for each in (Stage.PREPROCESS, Stage.SCORING):
    _cancels("first", 0, each)
    _cancels("last", -1, each)


@act("expire")
def _expire(scene: Scene) -> Callable[[], Any]:
    scene.may_be |= {"expired"}
    scene.ledger.turn_clock(3601)
    return scene.ledger.sweeping.expire_deadlines


@act("submit-the-same")
def _accept(scene: Scene) -> Callable[[], Any]:
    """One that joins, one that is new, and one whose key is known or new."""
    key = idempotency("", "k1", "m", {"n": 1}, "normal", 1.0)
    requests = Submission("m", {"n": 1}), Submission("m", {"n": 9}, tenant=b"o" * 8), Submission("m", {"n": 1}, key=key)
    return lambda: scene.accept(*requests)


@act("submit-to-a-waiting-worker")
def _accept_parked(scene: Scene) -> Callable[[], Any]:
    scene.bring_to(Stage.SCORING)
    scene.park(Stage.PREPROCESS)
    return lambda: scene.accept(Submission("m", {"n": 8}), Submission("m", {"n": 8}))


@act("submit-what-was-answered")
def _accept_answered(scene: Scene) -> Callable[[], Any]:
    scene.bring_to(Stage.POSTPROCESS)
    scene.claim(Stage.POSTPROCESS)
    scene.settle(completed)
    key = idempotency("", "k7", "m", {"n": 1}, "normal", 1.0)
    return lambda: scene.accept(
        Submission("m", {"n": 1}), Submission("m", {"n": 1}, key=key), Submission("m", {"n": 7})
    )


@act("heartbeat")
def _beat(scene: Scene) -> Callable[[], Any]:
    return lambda: scene.ledger.scripts.heartbeat(args=["w1", "{}", "0"])


@act("register")
def _register(scene: Scene) -> Callable[[], Any]:
    return lambda: scene.ledger.scripts.heartbeat(args=["new", "{}", "1"])


@act("fence")
def _fence(scene: Scene) -> Callable[[], Any]:
    scene.claim(Stage.PREPROCESS)
    scene.ledger.turn_clock(10)
    return lambda: scene.ledger.scripts.fence(args=[3000, "w1"])


@act("park")
def _park(scene: Scene) -> Callable[[], Any]:
    scene.bring_to(Stage.SCORING)
    return lambda: scene.park(Stage.PREPROCESS)


@act("leave")
def _leave(scene: Scene) -> Callable[[], Any]:
    scene.bring_to(Stage.SCORING)
    scene.park(Stage.PREPROCESS)
    ((worker, stage),) = scene.waiting[-1:]
    scene.waiting.clear()
    return lambda: worker.park(scene.ledger.lane(stage), 64, 0.001)


@act("ring")
def _ring(scene: Scene) -> Callable[[], Any]:
    scene.ledger.turn_clock(10)
    return lambda: scene.ledger.sweeping.ring_idle(scene.ledger.lane().name)


@act("sweep")
def _sweep(scene: Scene) -> Callable[[], Any]:
    return scene.sweeper.sweep


@act("scrub")
def _scrub(scene: Scene) -> Callable[[], Any]:
    """What a stopped cancel leaves, cleared away."""
    scene.may_be |= {"cancelled"}
    with scene.refused("zrem"), pytest.raises(Problem):
        scene.ledger.run(scene.ledger.producing.cancel(scene.ids[0]))
    return Repairs(scene.ledger.own, scene.ledger.settings).scrub


@act("reopen")
def _reopen(scene: Scene) -> Callable[[], Any]:
    """A batch that stands nowhere, as releases before this one could leave it."""
    scene.bring_to(Stage.SCORING)
    scene.claim(Stage.SCORING)
    scene.admin.delete(keys.claims("w1"))
    repairs = Repairs(scene.ledger.own, scene.ledger.settings)
    repairs.recover_orphans()
    return repairs.recover_orphans


@act("pass-on")
def _pass_on(scene: Scene) -> Callable[[], Any]:
    """Ring a lane on leaving it, for a worker that stands ready before work comes."""
    scene.bring_to(Stage.SCORING)
    return lambda: scene.worker.ring_successor(scene.ledger.lane())


@act("trim-letters")
def _trim(scene: Scene) -> Callable[[], Any]:
    """A letter that is too old goes whole; what died of it stays dead."""
    scene.claim(Stage.PREPROCESS)
    scene.settle(died)
    scene.may_be |= {"dead"}
    scene.ids, scene.unsure = [], True  # their letters go: nobody may bring them back
    scene.ledger.turn_clock(2 * scene.ledger.settings.dead_max_age)
    return scene.ledger.sweeping.trim_dead_letters


@act("keep-results")
def _keep(scene: Scene) -> Callable[[], Any]:
    """Some that are new and one that is kept already, in a cache that has no room for all of them."""
    room, entry = 4 * 300, b"v" * 50

    def keep(*names: int) -> None:
        pairs = [part for name in names for part in (bytes([name]) * 16, entry)]
        scene.ledger.scripts.cache_fill(args=[room, 60_000, *pairs])

    keep(1, 2, 3)
    return lambda: keep(3, 4, 5)


@act("read")
def _read(scene: Scene) -> Callable[[], Any]:
    return lambda: scene.ledger.read(*scene.ids)


@pytest.fixture(autouse=True)
def _no_wake_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wakes runs in this thread: what has not come by now was refused."""
    monkeypatch.setattr(claims, "UNDER_WAY_S", 0.001)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Refusals are what is tried here: the sweeper's tracebacks of them take longer than the tests."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def make_scene(valkey: str, make_ledger: LedgerMaker) -> Iterator[Callable[[str], Scene]]:
    admin = redis.Redis.from_url(valkey)
    ledger = make_ledger(tenant_in_flight="100", tenant_rate="1000")

    def make(flow: str) -> Scene:
        ledger.begin_again()
        admin.set(keys.AUDIT, "1")
        scene = Scene(ledger, admin, ledger.worker("w1"))
        FLOWS[flow](scene)
        return scene

    yield make
    admin.acl_log_reset()  # what was refused here was refused on purpose


def commands_of(scene: Scene, do: Callable[[], Any]) -> list[str]:
    """What the server was sent meanwhile, scripts' own commands included."""
    scene.admin.config_resetstat()
    do()
    sent = scene.admin.info("commandstats")
    return sorted({name.removeprefix("cmdstat_") for name in sent} - NEVER_REFUSED)


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
@pytest.mark.parametrize("name", sorted(ACTS))
@pytest.mark.parametrize("flow", sorted(FLOWS))
def test_whichever_command_is_refused_every_request_ends_once(
    make_scene: Callable[[str], Scene], flow: str, name: str
) -> None:
    scene = make_scene(flow)
    commands = commands_of(scene, ACTS[name](scene))
    scene.recover()
    scene.check(logged=True)
    assert commands
    stopped = []
    for command in commands:
        scene = make_scene(flow)
        do = ACTS[name](scene)
        sent, failed = len(scene.submission_batches), False
        try:
            with scene.refused(command):
                do()
        except (RedisError, Problem):
            failed = True
            stopped.append(command)
        try:
            if failed:
                scene.worker.give_back()  # as a child does after whatever interrupts it
                if len(scene.submission_batches) > sent or (scene.submission_batches and name.startswith("submit")):
                    scene.send()  # as a client does
            scene.recover()
            scene.check(logged=command != "xadd")
            letters, _ = scene.ledger.run(scene.ledger.letters.page())
            for letter in letters:
                if "dead" in scene.ledger.states(*letter.died):  # else it was written, and what died ran again
                    scene.ledger.run(scene.ledger.letters.replay(letter.id))
            scene.accept(Submission("m", {"n": 1}), Submission("m", {"n": 2}))
            scene.recover()
            scene.may_be -= {"dead"}
            scene.check(logged=command != "xadd")
            assert scene.ledger.states(*scene.ids[-2:]) == ["succeeded", "succeeded"], "nobody's end is another's"
        except Exception as error:
            raise AssertionError(f"{flow}, {name}: with {command} refused: {error}") from error
    assert stopped, "none of them stops it"


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_no_script_is_left_out(make_scene: Callable[[str], Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    for kind in (Script, AsyncScript):

        def recording(script: Any, *arguments: Any, call: Any = kind.__call__, **options: Any) -> Any:
            called.add(script.sha)
            return call(script, *arguments, **options)

        monkeypatch.setattr(kind, "__call__", recording)
    reached: set[str] = set()
    for name in sorted(ACTS):
        do = ACTS[name](make_scene("joined"))
        called.clear()
        do()
        reached |= called
    names = {hashlib.sha1(source(name).encode()).hexdigest(): name for name in SCRIPTS}
    # What asks for rights is itself about refusals, and has tests of its own.
    assert {names[sha] for sha in reached} == set(SCRIPTS) - {"rights"}


REFUSED = st.one_of(st.none(), st.sampled_from(sorted(scripted() - {"XADD"})))  # that is the log of ends
FATES = {"complete": completed, "retry": again, "die": died, "refuse": invalid}


def make_walk(make_scene: Callable[[str], Scene]) -> type[RuleBasedStateMachine]:
    class Walk(RuleBasedStateMachine):
        """Everything that befalls requests, in any order, each with a command refused or none."""

        def __init__(self) -> None:
            super().__init__()
            self.scene = make_scene("alone")
            self.scene.may_be = {"succeeded", "invalid", "dead", "expired", "cancelled"}
            self.ledger = self.scene.ledger
            self.logged = True

        def do(self, refused: str | None, what: Callable[[], Any]) -> bool:
            """Whether it was done."""
            try:
                with self.scene.refused(refused):
                    what()
            except (RedisError, Problem, ClaimLost):
                self.scene.worker.give_back()
                return False
            return True

        def beat(self) -> None:
            """A worker that was fenced takes another name."""
            if not self.ledger.scripts.heartbeat(args=[self.scene.worker._name(), "{}", "0"]):
                self.scene.worker, self.scene.batch = self.ledger.worker(f"next{next(self.scene.names)}"), None

        @rule(
            numbers=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3), keyed=st.booleans(), refused=REFUSED
        )
        def submit(self, numbers: list[int], keyed: bool, refused: str | None) -> None:
            submissions = [
                Submission(
                    "m",
                    {"n": n},
                    timeout_ms=60_000 * n,
                    key=idempotency("", f"k{n}", "m", {"n": n}, "normal", 1.0) if keyed else b"",
                    tenant=b"o" * 8,
                )
                for n in numbers
            ]
            submission_batches = len(self.scene.submission_batches)
            if (
                not self.do(refused, lambda: self.scene.accept(*submissions))
                and len(self.scene.submission_batches) > submission_batches
            ):
                self.scene.give_up()

        @rule(refused=REFUSED)
        def submit_and_insist(self, refused: str | None) -> None:
            if not self.do(refused, lambda: self.scene.accept(Submission("m", {"n": 1}), Submission("m", {"n": 4}))):
                self.scene.send()

        @rule(stage=st.sampled_from(list(Stage)), limit=st.integers(1, 4), refused=REFUSED)
        def claim(self, stage: Stage, limit: int, refused: str | None) -> None:
            def do() -> None:
                self.scene.batch = self.ledger.claim(self.scene.worker, stage, limit) or self.scene.batch

            self.beat()
            self.do(refused, do)

        @precondition(lambda self: self.scene.batch)
        @rule(data=st.data(), more=st.sampled_from([0, 3]), refused=REFUSED)
        def settle(self, data: st.DataObject, more: int, refused: str | None) -> None:
            batch, self.scene.batch = self.scene.batch, None
            assert batch is not None
            outcomes = [
                FATES[data.draw(st.sampled_from([*FATES, "complete", "complete"]))](work) for work in batch.works
            ]

            def do() -> None:
                worker = self.scene.worker
                self.scene.batch = worker.settle(batch, outcomes, claim_next=more, model_runs={}, idle=False)

            self.do(refused, do)

        @rule(how=st.sampled_from(["start", "none", "loss"]), refused=REFUSED)
        def lose_claims(self, how: Any, refused: str | None) -> None:
            scripts, name = self.ledger.scripts, self.scene.worker._name()
            self.do(refused, lambda: release_claims(scripts, name, charge=how, reason="died", fence=how == "loss"))
            self.beat()

        @rule(data=st.data(), refused=REFUSED)
        def cancel(self, data: st.DataObject, refused: str | None) -> None:
            request_id = data.draw(st.sampled_from(self.scene.ids))
            self.do(refused, lambda: self.ledger.run(self.ledger.producing.cancel(request_id)))

        @rule(data=st.data(), refused=REFUSED)
        def replay(self, data: st.DataObject, refused: str | None) -> None:
            request_id = data.draw(st.sampled_from(self.scene.ids))
            self.do(refused, lambda: self.ledger.run(self.ledger.letters.replay(request_id)))

        @rule(seconds=st.sampled_from([2, 50]), refused=REFUSED)
        def sweep(self, seconds: int, refused: str | None) -> None:
            self.ledger.turn_clock(seconds)
            self.scene.clock.now += seconds
            self.do(refused, self.scene.sweeper.sweep)
            self.beat()

        @rule(stage=st.sampled_from(list(Stage)))
        def pass_stages(self, stage: Stage) -> None:
            self.scene.bring_to(stage)

        def teardown(self) -> None:
            self.scene.recover()
            self.scene.check(logged=True)
            for client in (self.ledger.client, self.ledger.own):
                client.close()
            for client in (self.ledger.async_client, self.ledger.own_async):
                self.ledger.run(client.aclose())

    return Walk


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_whatever_happens_while_commands_are_refused_every_request_ends_once(
    make_scene: Callable[[str], Scene],
) -> None:
    run_state_machine_as_test(
        make_walk(make_scene),
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            print_blob=True,
        ),
    )
