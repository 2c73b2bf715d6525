"""How a worker starts, and why it may not, as far as that needs no vLLM."""

import sys

import pytest
from driver import Worker

from stoker_worker import versions
from stoker_worker.engine import check_folder, import_vllm
from stoker_worker.fatal import Fatal


@pytest.fixture
def flags():
    return ()


@pytest.fixture
def worker(flags):
    worker = Worker(*flags)
    yield worker
    worker.end()


def test_a_folder_that_is_not_there(worker):
    worker.start("/nowhere/at/all")
    fatal = worker.wait_for("fatal")
    assert worker.said[0]["type"] == "hello"
    assert (fatal["cause"], fatal["permanent"]) == ("model_not_found", True)
    assert "/nowhere/at/all" in fatal["message"]
    worker.wait_gone(10)
    assert worker.status == 1


@pytest.mark.parametrize("flags", [("-S",)])
def test_an_environment_without_vllm(worker):
    fatal = worker.wait_for("fatal")
    assert (worker.said[0]["type"], worker.said[0]["version"], worker.said[0]["tested"]) == ("hello", "", False)
    assert (fatal["cause"], fatal["permanent"]) == ("import_error", True)
    worker.wait_gone(10)


def test_another_protocol(worker):
    worker.send("start", protocol=99, model="m")
    fatal = worker.wait_for("fatal")
    assert (fatal["cause"], fatal["permanent"]) == ("internal", True)
    worker.wait_gone(10)


def test_what_is_no_message(worker):
    worker.send("ping", seq="x")
    assert "decode message" in worker.wait_for("fatal")["message"]
    worker.wait_gone(10)


def test_ping_before_start(worker):
    worker.send("ping", seq=5)
    assert worker.wait_for("pong")["seq"] == 5


@pytest.mark.parametrize(("leave", "status"), [(lambda w: w.send("stop"), 0), (lambda w: w.hang_up(), 1)])
def test_stop_and_end_of_file_before_start(worker, leave, status):
    worker.wait_for("hello")
    leave(worker)
    worker.wait_gone(10)
    assert worker.status == status


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(Fatal, match=r"holds no config\.json or params\.json"):
        check_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    check_folder(str(tmp_path))
    check_folder("org/name")


def test_a_vllm_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Fatal) as caught:
        import_vllm(lambda phase, detail: None)
    assert (caught.value.cause, caught.value.permanent) == ("import_error", True)


@pytest.mark.parametrize(("version", "tested"), [("0.32.0", True), ("0.32.1+cu130", True), ("0.26.0", True), ("0.31.0", False), (None, False)])
def test_tested_versions(version, tested):
    assert versions.is_tested(version) is tested
