import io
import os
import threading
import time
from collections.abc import Iterator

import pytest

from stoker_worker.pipes import Reader, Writer, read_lines


@pytest.fixture
def pipe() -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """The ends to read from and to write to. As files, which are closed only once: their numbers are soon another's."""
    source, sink = os.pipe()
    with os.fdopen(source, "rb", buffering=0) as reads, os.fdopen(sink, "wb", buffering=0) as writes:
        yield reads, writes


def test_lines_survive_any_cutting(pipe):
    source, sink = pipe
    text = b"one\n\ntwo\nthr" + b"e" * 300_000 + b"\nlast\nunfinished"
    writer = threading.Thread(target=lambda: ([sink.write(text[i : i + 7001]) for i in range(0, len(text), 7001)], sink.close()))
    writer.start()
    lines = [line for batch in read_lines(source.fileno()) for line in batch]
    writer.join()
    assert lines == [b"one", b"two", b"thr" + b"e" * 300_000, b"last"]


def test_writer_keeps_order_and_never_blocks(pipe):
    """Nobody reads at first, and what is sent is far more than a pipe holds."""
    source, sink = pipe
    writer = Writer(sink.fileno(), on_broken=lambda: pytest.fail("nobody hung up"))
    sent = [b"%d %s\n" % (i, b"x" * 1000) for i in range(2000)]
    for line in sent:
        writer.send(line)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.extend(line for batch in read_lines(source.fileno()) for line in batch))
    reader.start()
    writer.close(10)
    sink.close()
    reader.join(10)
    assert received == [line.rstrip() for line in sent]


def test_writer_close_gives_up_on_a_reader_that_does_not_read(pipe):
    source, sink = pipe
    broken = threading.Event()
    writer = Writer(sink.fileno(), broken.set)
    writer.send(b"x" * (1 << 20) + b"\n")
    began = time.monotonic()
    writer.close(0.05)
    assert time.monotonic() - began < 5
    source.close()
    assert broken.wait(10)


def test_writer_tells_that_nobody_reads(pipe):
    source, sink = pipe
    broken = threading.Event()
    writer = Writer(sink.fileno(), broken.set)
    source.close()
    writer.send(b"hello?\n")
    assert broken.wait(10)


def test_reader_tells_the_end(pipe):
    source, sink = pipe
    got: list[object] = []
    over = threading.Event()
    reader = Reader(source.fileno(), got.extend, lambda problem: (got.append(problem), over.set()))
    reader.start()
    sink.write(b"a\nb\n")
    sink.close()
    assert over.wait(10)
    assert got == [b"a", b"b", None]


def test_reader_tells_what_its_owner_could_not_take(pipe):
    source, sink = pipe
    problems: list[Exception | None] = []
    over = threading.Event()

    def refuse(lines: list[bytes]) -> None:
        raise ValueError("no message")

    Reader(source.fileno(), refuse, lambda problem: (problems.append(problem), over.set())).start()
    sink.write(b"a\n")
    assert over.wait(10)
    assert str(problems[0]) == "no message"


def test_the_pipes_are_not_for_children(pipe):
    fd = pipe[1].fileno()
    os.set_inheritable(fd, True)
    Writer(fd, on_broken=lambda: None).close(1)
    assert not os.get_inheritable(fd)
