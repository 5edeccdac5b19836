"""A plan on a Ray cluster gives the numbers of this process, also when a node is lost; all nodes on this machine."""

import sys
import threading
import time

import pytest

from stillscape._errors import InputError, RunError
from stillscape.experiments import demo_plan, run, set_up
from stillscape.experiments.local import run_tasks
from stillscape.experiments.progress import Silent
from tests.experiments.small import small_plan

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # Ray's own, at start and end
]
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False, "node_ip_address": "127.0.0.1"}


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one core each."""
    ray = pytest.importorskip("ray")
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    # Else Ray takes 127.0.0.1 for a mistake, and looks for the cluster at the address that others see.
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    started = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        started.add_node(**{k: v for k, v in NODE.items() if k != "include_dashboard"})
        started.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", started.address)
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


@pytest.fixture(scope="module")
def plan(photos, tiny_vit):
    return small_plan(photos, tiny_vit, workers=None)


@pytest.fixture(scope="module")
def local(plan, tmp_path_factory):
    return run(plan.model_copy(update={"workers": 1}), tmp_path_factory.mktemp("local") / "out")


def on_ray(plan):
    return plan.model_copy(update={"executor": "ray"})


def test_without_ray_the_way_to_it_is_said(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'stillscape\[ray\]'"):
        run(on_ray(plan), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_does_not_answer_is_said_soon(plan, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"no Ray cluster at RAY_ADDRESS = '127\.0\.0\.1:1'"):
        run(on_ray(plan), tmp_path / "out")


def test_a_cluster_that_was_not_named_is_never_joined(plan, tmp_path, monkeypatch):
    """Without RAY_ADDRESS Ray would look for one on this machine, which may be another user's."""
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    asked = []

    def init(*args, **_kwargs):
        asked.append(args)
        raise RuntimeError("seen")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InputError, match="seen"):
        run(on_ray(plan), tmp_path / "out")
    assert asked == [("local",)]


@pytest.mark.slow
def test_a_cluster_gives_the_numbers_of_this_process(plan, local, cluster, tmp_path):
    assert run(on_ray(plan), tmp_path / "out") == local


@pytest.mark.slow
def test_a_lost_node_loses_nothing(plan, local, cluster, tmp_path, fault):
    extra = {k: v for k, v in NODE.items() if k != "include_dashboard"}
    lost = cluster.add_node(**extra)
    folder, removed = tmp_path / "out", []

    def lose() -> None:
        limit = time.monotonic() + 120
        while time.monotonic() < limit and not list(folder.glob("cells/*/record.json")):
            time.sleep(0.02)
        removed.append(len(list(folder.glob("cells/*/record.json"))))
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    result = run(on_ray(plan), folder)
    thread.join()
    assert 0 < removed[0] < 8
    assert result == local
    fault("a Ray node is lost", 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_demo_on_a_cluster_that_loses_a_node(cluster, tmp_path, fault):
    """Every cell, probe, Hessian curve and surface of it; a third node is killed in the middle."""
    folder, removed = tmp_path / "out", []
    lost = cluster.add_node(**{k: v for k, v in NODE.items() if k != "include_dashboard"})
    cluster.wait_for_nodes()

    def lose() -> None:
        limit = time.monotonic() + 900
        while time.monotonic() < limit and len(list(folder.glob("cells/*/record.json"))) < 20:
            time.sleep(0.1)
        removed.append(len(list(folder.glob("cells/*/record.json"))))
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    result = run(on_ray(demo_plan()), folder)
    thread.join()
    assert 20 <= removed[0] < 90
    assert result == run(demo_plan(), tmp_path / "local")
    fault("a Ray node is lost", 1)


@pytest.mark.slow
def test_a_remote_folder_on_a_cluster(plan, local, cluster, tmp_path, monkeypatch):
    """Records go straight to the address; the cache must be on a disk that all nodes see."""
    monkeypatch.setenv("STILLSCAPE_CACHE", str(tmp_path / "cache"))
    assert run(on_ray(plan), f"file://{tmp_path}/runs/a") == local


def _dies(bench, folder, place):
    import os

    mark = folder / f"tried-{place}"
    if not mark.exists():
        mark.touch()
        os._exit(1)
    (folder / f"done-{place}").touch()


def _dies_always(bench, folder):
    import os

    os._exit(1)


def _raises(bench, folder):
    raise InputError("this is what the task says")


@pytest.mark.slow
def test_workers_that_die_are_replaced_and_what_tasks_raise_arrives(plan, cluster, tmp_path, fault):
    import ray

    bench, _ = set_up(on_ray(plan), tmp_path, Silent())
    assert sorted(run_tasks(bench, tmp_path, [(_dies, (n,)) for n in range(3)])) == [0, 1, 2]
    assert len(list(tmp_path.glob("done-*"))) == 3
    fault("a Ray worker dies", 3)
    with pytest.raises(RunError, match="lost its worker or node 4 times"):
        list(run_tasks(bench, tmp_path, [(_dies_always, ())]))
    with pytest.raises(InputError, match="this is what the task says"):
        list(run_tasks(bench, tmp_path, [(_raises, ())]))
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_cluster_of_its_own(plan, local, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert run(on_ray(plan), tmp_path / "out") == local
