"""Slow, obvious twins of the compiled kernels: they must give the same integers on every input."""

from __future__ import annotations

from dataclasses import dataclass, field

from cimsim.records import ArrayJob, Counts, LoadCounts, LoadJob


@dataclass
class _Schedule:
    """When things happen: one entry per vector or, where said, per read."""

    fetch_end: list[int] = field(default_factory=list)
    read_start: list[int] = field(default_factory=list)  # per read
    read_end: list[int] = field(default_factory=list)  # per read
    convert_end: list[int] = field(default_factory=list)  # per read
    release: list[int] = field(default_factory=list)  # per read: its converter slot is empty again
    array_free: list[int] = field(default_factory=list)  # per read
    digital_start: list[int] = field(default_factory=list)
    write_start: list[int] = field(default_factory=list)
    write_end: list[int] = field(default_factory=list)


def _at(times: list[int], index: int) -> int:
    """The time of event `index`; events before the first lie in the past."""
    return times[index] if index >= 0 else 0


def _add_vector(job: ArrayJob, v: int, s: _Schedule) -> None:
    place_free = _at(s.array_free, (v - 1) * job.reads - 1)  # two places: vector v-2 is through
    s.fetch_end.append(max(_at(s.fetch_end, v - 1), place_free) + job.fetch_ticks)
    for n in range(v * job.reads, (v + 1) * job.reads):
        s.read_start.append(max(_at(s.array_free, n - 1), s.fetch_end[v]))
        s.read_end.append(s.read_start[n] + job.read_ticks)
        handed = max(s.read_end[n], _at(s.release, n - 1))
        s.convert_end.append(handed + -(-job.conversions // job.adcs))
        is_last = n == (v + 1) * job.reads - 1
        register_free = _at(s.digital_start, v - 1) - job.shift_add_ticks if is_last else 0
        s.release.append(max(s.convert_end[n], register_free))
        s.array_free.append(handed if job.sample_hold else s.release[n])
    arrival = s.release[-1] + job.shift_add_ticks
    s.digital_start.append(max(arrival, _at(s.write_start, v - 1)))
    s.write_start.append(max(s.digital_start[v] + job.digital_ticks, _at(s.write_end, v - 1)))
    s.write_end.append(s.write_start[v] + job.write_ticks)


def mvm(job: ArrayJob) -> Counts:
    """`count_mvm` as recurrences over the times of all vectors and reads."""
    s = _Schedule()
    for v in range(job.vectors + 1):
        _add_vector(job, v, s)
    num_reads = job.vectors * job.reads
    adc = output = 0
    for n in range(num_reads):
        blocking = s.convert_end[n] if not job.sample_hold else _at(s.convert_end, n - 1)
        converted = min(max(blocking, s.read_end[n]), s.array_free[n])
        adc += converted - s.read_end[n]
        output += s.array_free[n] - converted
    fetch = sum(s.read_start[n] - s.array_free[n - 1] for n in range(1, num_reads))
    first, last = s.write_end[0], s.write_end[job.vectors - 1]
    interval = last - s.write_end[job.vectors - 2] if job.vectors > 1 else 0
    occupancy = s.write_end[job.vectors] - first
    conversions = num_reads * job.conversions
    return Counts(first, interval, occupancy, last, num_reads, conversions, adc, output, fetch)


@dataclass
class _Block:
    """A block on its way through an assembly buffer."""

    arrivals: list[int] = field(default_factory=list)  # when each issued lookup is there
    row_ticks: int = 0  # ticks of writing done

    def is_issued(self, job: LoadJob) -> bool:
        return len(self.arrivals) == job.codes_per_block * job.lookups

    def is_complete(self, job: LoadJob, tick: int) -> bool:
        return self.is_issued(job) and max(self.arrivals) <= tick


def _issue(job: LoadJob, tick: int, reservoir: list[int], block: _Block, entries: _Entries) -> str:
    """Issues this tick's lookups, one by one; what ended them: `index`, `bank` or nothing in particular."""
    answered = set()
    for _ in range(job.ports):
        if block.is_issued(job):
            return ""
        begins = len(block.arrivals) % job.lookups == 0
        if begins and len(reservoir) < job.code_bits:
            return "index"
        if job.banks:
            bank = next(entries) % job.banks
            if bank in answered:
                entries.put_back()
                return "bank"
            answered.add(bank)
        if begins:
            del reservoir[: job.code_bits]
        block.arrivals.append(tick + job.latency)
    return ""


class _Entries:
    """The lookups' indices in their order, again and again."""

    def __init__(self, entries: list[int]):
        self.entries, self.place = entries, 0

    def __next__(self) -> int:
        self.place += 1
        return self.entries[(self.place - 1) % len(self.entries)]

    def put_back(self) -> None:
        self.place -= 1


def load(job: LoadJob, entries: list[int] | None = None) -> LoadCounts:
    """`count_load` with a list of bits for the reservoir and an object for each block."""
    blocks = [_Block() for _ in range(job.blocks)]
    asked = _Entries(entries or [0])
    bits_to_come = job.blocks * job.codes_per_block * job.code_bits
    capacity = max(2 * job.index_width, job.code_bits + job.index_width)
    row_ticks = job.block_rows * job.write_ticks
    reservoir: list[int] = []
    words = tick = 0
    stalls = {"index": 0, "bank": 0, "": 0}
    while any(block.row_ticks < row_ticks for block in blocks):
        unwritten = [block for block in blocks if block.row_ticks < row_ticks]
        filling = [block for block in unwritten[: job.buffers] if not block.is_issued(job)]
        ended_by = _issue(job, tick, reservoir, filling[0], asked) if filling else ""
        if unwritten[0].is_complete(job, tick):
            unwritten[0].row_ticks += 1
        else:
            stalls[ended_by if filling and filling[0] is unwritten[0] else ""] += 1
        if len(reservoir) + job.index_width <= capacity and words * job.index_width < bits_to_come:
            reservoir += [0] * job.index_width
            words += 1
        tick += 1
    reads = sum(len(block.arrivals) for block in blocks)
    rows = sum(block.row_ticks // job.write_ticks for block in blocks)
    return LoadCounts(tick, words, reads, rows, stalls["index"], stalls[""], stalls["bank"])


def stream(ready: list[int], need: list[int], work: list[int], latency: int) -> tuple[list[int], list[int]]:
    """Start and end of each block of a layer in max-plus closed form: the longest path to it, found afresh."""
    starts = []
    for b in range(len(need)):
        # wait for the input of some earlier block a, then work without a pause up to b
        starts.append(max((ready[need[a]] if need[a] >= 0 else 0) + sum(work[a:b]) for a in range(b + 1)))
    return starts, [start + w + latency for start, w in zip(starts, work, strict=True)]


def needed_rows(out_rows: int, in_rows: int, kernel: int, stride: int, padding: int) -> list[int]:
    """`streams.needed_rows` by touching every tap."""
    fields = [[o * stride - padding + k for k in range(kernel)] for o in range(out_rows)]
    return [max([min(row, in_rows - 1) for row in taps if row >= 0], default=-1) for taps in fields]
