"""Which faults there are, and when they happen. Pure: a seed in, a schedule out, the same one each time.

What a seed fixes is the schedule, and what clients choose at random. What threads and processes then make of it is
not fixed, so a replay does the same to the deployment and may see it end otherwise.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

ALL: Final = -1
"""A target: every link of the kind at once."""


class Subject(StrEnum):
    """What a fault happens to."""

    NOTHING = "nothing"
    SIDECAR = "sidecar"
    FLOWLESS = "flowless"
    REDIS = "redis"
    POSTGRES = "postgres"
    SIDECAR_FLOWLESS = "sidecar-flowless"
    FLOWLESS_POSTGRES = "flowless-postgres"
    FLOWLESS_REDIS = "flowless-redis"
    SIDECARS_LINKS = "every link of a sidecar"
    PROGRAM = "sidecar or replica"
    MACHINE = "machine"


class Action(StrEnum):
    """What is done to it, until it is undone."""

    NOTHING = "nothing"
    KILL = "kill"
    PAUSE = "pause"
    CUT = "cut"
    DELAY = "delay"
    DEAF = "deaf"
    HALF_CLOSE = "half-close"
    FLUSH = "flush"
    OLD_SNAPSHOT = "old-snapshot"
    STEP_CLOCK = "step-clock"


class Fault(StrEnum):
    """The kinds of fault, by the names that the command line takes."""

    NONE = "none"
    SIDECAR_KILL = "sidecar-kill"
    SIDECAR_PAUSE_2S = "sidecar-pause-2s"
    SIDECAR_PAUSE_10S = "sidecar-pause-10s"
    FLOWLESS_KILL = "flowless-kill"
    FLOWLESS_PAUSE_2S = "flowless-pause-2s"
    FLOWLESS_PAUSE_10S = "flowless-pause-10s"
    REDIS_KILL = "redis-kill"
    REDIS_PAUSE_2S = "redis-pause-2s"
    REDIS_PAUSE_10S = "redis-pause-10s"
    POSTGRES_KILL = "postgres-kill"
    POSTGRES_PAUSE_2S = "postgres-pause-2s"
    POSTGRES_PAUSE_10S = "postgres-pause-10s"
    SIDECAR_FLOWLESS_CUT = "sidecar-flowless-cut"
    SIDECAR_FLOWLESS_DELAY = "sidecar-flowless-delay"
    SIDECAR_FLOWLESS_DEAF = "sidecar-flowless-deaf"
    SIDECAR_FLOWLESS_HALF_CLOSE = "sidecar-flowless-half-close"
    FLOWLESS_POSTGRES_CUT = "flowless-postgres-cut"
    FLOWLESS_POSTGRES_DELAY = "flowless-postgres-delay"
    FLOWLESS_POSTGRES_DEAF = "flowless-postgres-deaf"
    FLOWLESS_POSTGRES_HALF_CLOSE = "flowless-postgres-half-close"
    FLOWLESS_REDIS_CUT = "flowless-redis-cut"
    FLOWLESS_REDIS_DELAY = "flowless-redis-delay"
    FLOWLESS_REDIS_DEAF = "flowless-redis-deaf"
    FLOWLESS_REDIS_HALF_CLOSE = "flowless-redis-half-close"
    REDIS_FLUSH = "redis-flush"
    REDIS_OLD_SNAPSHOT = "redis-old-snapshot"
    CLOCK_FORWARD = "clock-forward-1h"
    CLOCK_BACK = "clock-back-1h"
    SIDECAR_PARTITION = "sidecar-partition"
    MACHINE_PAUSE_2S = "machine-pause-2s"
    MACHINE_PAUSE_10S = "machine-pause-10s"


class Kind(NamedTuple):
    """What a fault is: to what, what, and for how many seconds (at least, at most)."""

    subject: Subject
    action: Action
    seconds: tuple[float, float]
    amount: tuple[float, float] = (0.0, 0.0)
    """Seconds of delay, or seconds by which a clock is stepped."""


_OUTAGE: Final = (0.5, 4.0)
_SHORT: Final = (0.1, 2.0)
_2S: Final = (2.0, 2.0)
_10S: Final = (10.0, 10.0)
_HOUR: Final = 3_600.0


def _processes() -> dict[Fault, Kind]:
    """A killed process is started again when the fault is over."""
    kinds: dict[Fault, Kind] = {}
    for subject in (Subject.SIDECAR, Subject.FLOWLESS, Subject.REDIS, Subject.POSTGRES):
        kinds[Fault(f"{subject}-kill")] = Kind(subject, Action.KILL, _SHORT)
        kinds[Fault(f"{subject}-pause-2s")] = Kind(subject, Action.PAUSE, _2S)
        kinds[Fault(f"{subject}-pause-10s")] = Kind(subject, Action.PAUSE, _10S)
    return kinds


def _links() -> dict[Fault, Kind]:
    kinds: dict[Fault, Kind] = {}
    for subject, slow in (
        (Subject.SIDECAR_FLOWLESS, (0.05, 0.45)),
        (Subject.FLOWLESS_POSTGRES, (0.02, 0.4)),
        (Subject.FLOWLESS_REDIS, (0.005, 0.1)),
    ):
        for action in (Action.CUT, Action.DEAF, Action.HALF_CLOSE):
            kinds[Fault(f"{subject}-{action}")] = Kind(subject, action, _OUTAGE)
        kinds[Fault(f"{subject}-delay")] = Kind(subject, Action.DELAY, _OUTAGE, slow)
    return kinds


KINDS: Final[dict[Fault, Kind]] = {
    Fault.NONE: Kind(Subject.NOTHING, Action.NOTHING, (1.0, 4.0)),
    **_processes(),
    **_links(),
    Fault.REDIS_FLUSH: Kind(Subject.REDIS, Action.FLUSH, (0.0, 0.0)),
    Fault.REDIS_OLD_SNAPSHOT: Kind(Subject.REDIS, Action.OLD_SNAPSHOT, (1.0, 4.0)),
    Fault.CLOCK_FORWARD: Kind(Subject.PROGRAM, Action.STEP_CLOCK, _OUTAGE, (_HOUR, _HOUR)),
    Fault.CLOCK_BACK: Kind(Subject.PROGRAM, Action.STEP_CLOCK, _OUTAGE, (-_HOUR, -_HOUR)),
    Fault.SIDECAR_PARTITION: Kind(Subject.SIDECARS_LINKS, Action.CUT, (0.5, 5.0)),
    Fault.MACHINE_PAUSE_2S: Kind(Subject.MACHINE, Action.PAUSE, _2S),
    Fault.MACHINE_PAUSE_10S: Kind(Subject.MACHINE, Action.PAUSE, _10S),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How much there is that can fail."""

    sidecars: int = 3
    replicas: int = 2

    def targets(self, subject: Subject) -> int:
        """How many targets a subject has; they count from 0."""
        return {
            Subject.SIDECAR: self.sidecars,
            Subject.SIDECARS_LINKS: self.sidecars,
            Subject.FLOWLESS: self.replicas,
            Subject.FLOWLESS_POSTGRES: self.replicas,
            Subject.FLOWLESS_REDIS: self.replicas,
            Subject.SIDECAR_FLOWLESS: self.sidecars * self.replicas,
            Subject.PROGRAM: self.sidecars + self.replicas,
        }.get(subject, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One fault: from `at` on, for `duration` seconds."""

    at: float
    fault: Fault
    target: int = 0
    duration: float
    amount: float = 0.0

    @property
    def kind(self) -> Kind:
        return KINDS[self.fault]

    @property
    def ends_at(self) -> float:
        return self.at + self.duration

    def __str__(self) -> str:
        target = "all" if self.target == ALL else str(self.target)
        amount = f" by {self.amount:.3g} s" if self.amount else ""
        return f"{self.at:.2f} s: {self.fault} of {target}{amount} for {self.duration:.2f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What happens. `seed` is also what clients draw from."""

    seed: int
    steps: Sequence[Step]

    @property
    def ends_at(self) -> float:
        """When the last fault is over."""
        return max((step.ends_at for step in self.steps), default=0.0)

    @property
    def faults(self) -> str:
        """Names of the kinds, each once."""
        return ", ".join(dict.fromkeys(step.fault for step in self.steps))


def touched(step: Step, shape: Shape) -> frozenset[str]:
    """Names of what the step does something to, as `World` has them: two steps at one time may not share any."""
    of_each_target = _names(step.kind.subject, shape)
    chosen = of_each_target if step.target == ALL else of_each_target[step.target : step.target + 1]
    return frozenset(name for names in chosen for name in names)


def _names(subject: Subject, shape: Shape) -> list[list[str]]:
    """For each target of a subject, the names of what it consists of."""
    links = [[f"{Subject.SIDECAR_FLOWLESS}-{s}-{r}" for r in range(shape.replicas)] for s in range(shape.sidecars)]
    special: dict[Subject, list[list[str]]] = {
        Subject.NOTHING: [],
        Subject.REDIS: [[str(subject)]],
        Subject.POSTGRES: [[str(subject)]],
        Subject.MACHINE: [processes(shape)],
        Subject.PROGRAM: [[f"clock-of-{name}"] for name in programs(shape)],
        Subject.SIDECARS_LINKS: links,
        Subject.SIDECAR_FLOWLESS: [[link] for links_of_one in links for link in links_of_one],
    }
    return special.get(subject, [[f"{subject}-{number}"] for number in range(shape.targets(subject))])


def programs(shape: Shape) -> list[str]:
    """Names of our own processes."""
    sidecars = [f"{Subject.SIDECAR}-{number}" for number in range(shape.sidecars)]
    return sidecars + [f"{Subject.FLOWLESS}-{number}" for number in range(shape.replicas)]


def processes(shape: Shape) -> list[str]:
    """Names of all processes."""
    return [*programs(shape), str(Subject.REDIS), str(Subject.POSTGRES)]


def _needed(step: Step) -> frozenset[str]:
    """What must be whole for a step to be undone: a replica starts only with its database."""
    if step.fault is Fault.FLOWLESS_KILL:
        return frozenset({str(Subject.POSTGRES), f"{Subject.FLOWLESS_POSTGRES}-{step.target}"})
    return frozenset()


def fits(step: Step, others: Iterable[Step], shape: Shape) -> bool:
    """Whether a step may be done beside the others."""
    mine, needs = touched(step, shape), _needed(step)
    for other in others:
        if step.at >= other.ends_at + _GAP or other.at >= step.ends_at + _GAP:
            continue
        theirs = touched(other, shape)
        if mine & theirs or needs & theirs or mine & _needed(other):
            return False
    return True


_GAP: Final = 0.5
"""Between two faults of one thing: undoing takes a while."""
_WARM_SECONDS: Final = 1.0
"""Before the first fault sessions have to be in the caches."""
_FIRST_WITHIN_SECONDS: Final = 5.0
_LINKS: Final = (Subject.SIDECAR_FLOWLESS, Subject.FLOWLESS_POSTGRES, Subject.FLOWLESS_REDIS)


def _draw(draw: random.Random, fault: Fault, at: float, shape: Shape) -> Step:
    kind = KINDS[fault]
    everywhere = kind.subject in _LINKS and draw.random() < 0.25
    target = ALL if everywhere else draw.randrange(shape.targets(kind.subject))
    return Step(
        at=round(at, 3),
        fault=fault,
        target=target,
        duration=round(draw.uniform(*kind.seconds), 3),
        amount=round(draw.uniform(*kind.amount), 3),
    )


def random_schedule(seed: int, kinds: Sequence[Fault], shape: Shape, *, brief: bool = False) -> Schedule:
    """One to five faults of these kinds, which may overlap. `brief` leaves out those that last ten seconds."""
    draw = random.Random(seed)
    choice = [kind for kind in kinds if not brief or KINDS[kind].seconds[1] <= 5.0] or list(kinds)
    steps: list[Step] = []
    within = _FIRST_WITHIN_SECONDS / 2 if brief else _FIRST_WITHIN_SECONDS
    for _ in range(draw.randint(1, 5)):
        for _ in range(20):
            step = _draw(draw, draw.choice(choice), _WARM_SECONDS + draw.uniform(0, within), shape)
            if fits(step, steps, shape):
                steps.append(step)
                break
    return Schedule(seed=seed, steps=sorted(steps, key=lambda step: step.at))


def schedule_of(fault: Fault, seed: int, shape: Shape) -> Schedule:
    """One kind of fault, several times if it is short, each time of another target if there is one."""
    draw = random.Random(seed)
    steps: list[Step] = []
    at = _WARM_SECONDS
    while at < 8.0:
        step = _draw(draw, fault, at, shape)
        steps.append(step)
        at = step.ends_at + draw.uniform(1.0, 2.0)
    return Schedule(seed=seed, steps=steps)


def fixed_schedules() -> list[Schedule]:
    """A few schedules that have every group of kinds between them; for a deployment of the default shape."""

    def together(seed: int, *faults: tuple[Fault, int, float]) -> Schedule:
        steps = [
            Step(
                at=_WARM_SECONDS + 0.2 * number,
                fault=fault,
                target=target,
                duration=duration,
                amount=KINDS[fault].amount[1],
            )
            for number, (fault, target, duration) in enumerate(faults)
        ]
        return Schedule(seed=seed, steps=steps)

    return [
        together(1, (Fault.SIDECAR_PARTITION, 0, 3.5), (Fault.REDIS_OLD_SNAPSHOT, 0, 2.5)),
        together(
            2,
            (Fault.SIDECAR_PAUSE_2S, 0, 2.0),
            (Fault.FLOWLESS_KILL, 0, 0.5),
            (Fault.CLOCK_FORWARD, 4, 2.0),
            (Fault.CLOCK_BACK, 1, 2.0),
            (Fault.FLOWLESS_REDIS_DEAF, 1, 2.0),
        ),
        together(
            3,
            (Fault.SIDECAR_KILL, 1, 0.2),
            (Fault.FLOWLESS_PAUSE_2S, 1, 2.0),
            (Fault.REDIS_KILL, 0, 1.0),
            (Fault.SIDECAR_FLOWLESS_DELAY, 0, 2.0),
        ),
        together(
            4,
            (Fault.SIDECAR_FLOWLESS_CUT, 0, 2.0),
            (Fault.SIDECAR_FLOWLESS_DEAF, 3, 2.5),
            (Fault.SIDECAR_FLOWLESS_HALF_CLOSE, 4, 2.0),
            (Fault.FLOWLESS_POSTGRES_CUT, 0, 1.5),
            (Fault.FLOWLESS_REDIS_CUT, 1, 1.5),
        ),
        together(
            5,
            (Fault.FLOWLESS_POSTGRES_DEAF, 0, 2.0),
            (Fault.FLOWLESS_POSTGRES_DELAY, 1, 2.0),
            (Fault.FLOWLESS_REDIS_HALF_CLOSE, 0, 1.5),
            (Fault.FLOWLESS_REDIS_DELAY, 1, 2.0),
            (Fault.REDIS_FLUSH, 0, 0.0),
        ),
        together(6, (Fault.POSTGRES_PAUSE_2S, 0, 2.0), (Fault.REDIS_PAUSE_2S, 0, 2.0)),
        together(7, (Fault.POSTGRES_KILL, 0, 1.0), (Fault.FLOWLESS_POSTGRES_HALF_CLOSE, 0, 2.5)),
        together(8, (Fault.MACHINE_PAUSE_2S, 0, 2.0)),
    ]
