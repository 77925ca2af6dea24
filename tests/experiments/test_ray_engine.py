"""The Ray engine on a local instance of two cores: the results of the local engine, whoever dies on the way."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from caddtree.core.errors import CheckpointError, CompatibilityError, InputError, ResourceError
from caddtree.experiments.engines import ray_cluster
from caddtree.experiments.engines.ray_cluster import ray_engine
from caddtree.experiments.experiment_files import load_experiment
from caddtree.experiments.records import Environment, Failed, Lost, Result, from_line_values
from caddtree.experiments.store import RunFolder
from caddtree.experiments.sweep import run_sweep
from caddtree.plugins.registry import default_registry
from tests.experiments.ray_sweep_process import INTERRUPTED
from tests.tiny_pair import write_pair

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PLUGINS = [str(HERE / "faulty_plugin"), str(HERE / "meeting_plugin")]
SHORT, LONG = "the cat sat", "the dog sat on the mat and the cat sat on the dog " * 3
MIDDLE = ("on the mat and the dog and the cat", "cat and dog and cat and dog", "sat on the mat and sat on the cat")
SILENCE_SECONDS = 10
"""Far more than a cell of these takes, on a busy machine too."""


@contextlib.contextmanager
def ray_environment(patch):
    """Give a folder for a Ray instance, short enough for its sockets; in the end nothing of it is left."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    settings = {
        **ray_cluster._LOCAL_ENVIRONMENT,
        "RAY_TMPDIR": folder,
        "RAY_AUTH_TOKEN": "0" * 32,  # or Ray writes one into the home folder
        "PYTHONPATH": os.pathsep.join([str(ROOT), *PLUGINS]),
        "OMP_NUM_THREADS": "1",
        "CADDTREE_LOG": "ERROR",
    }
    for name, value in settings.items():
        patch.setenv(name, value)
    try:
        yield folder
    finally:
        for process in processes_of(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder):
    """Return the processes, besides this one, that were started under this ``RAY_TMPDIR``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"RAY_TMPDIR={folder}\0".encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append(int(path.parent.name))
    return found


def has_ended(worker):
    """Wait for the end of the process of an environment."""
    return wait_until(lambda: not Path(f"/proc/{worker.facts['process']}").exists())


def wait_until(is_true, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_true()


@pytest.fixture(scope="module")
def cluster():
    """Two cores that are lent to whoever asks, as by a standing cluster."""
    ray = pytest.importorskip("ray", reason="needs the extra caddtree[ray]")
    with pytest.MonkeyPatch.context() as patch, ray_environment(patch) as folder:
        # the process that plans must know the plugins that its workers find on their path
        for plugin in PLUGINS:
            patch.syspath_prepend(plugin)
        default_registry.cache_clear()
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100_000_000,
            logging_level="ERROR",
            log_to_driver=False,
        )
        yield ray
        ray.shutdown()
        assert wait_until(lambda: not processes_of(folder)), processes_of(folder)
    default_registry.cache_clear()


def write_experiment(folder, texts, variants, extra=""):
    """Write a tiny pair and ``small.yaml``: greedy, plain decoding and ``variants`` on ``texts``."""
    write_pair(folder)
    lines = [json.dumps({"id": str(index), "prompt": text}) for index, text in enumerate(texts)]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / "small.yaml"
    path.write_text(
        "description: A tiny pair on Ray\nbase: ./recipe.yaml\ndatasets: [./texts.jsonl]\nwarm_up_tokens: 4\n"
        f"fixed: {{generation: {{max_new_tokens: 12}}}}\n{extra}variants:\n"
        + "".join(f"  {name}: {{tree_builder: {builder}}}\n" for name, builder in variants.items())
    )
    return path


def num_tokens(folder, text):
    """Return the context length with which the first round behind ``text`` begins."""
    return len(AutoTokenizer.from_pretrained(folder / "target").encode(text))


def lines(run):
    return (run / "records.jsonl").read_bytes().split(b"\n")[:-1]


def records(run, kind):
    return [record for record in map(from_line_values, map(json.loads, lines(run))) if isinstance(record, kind)]


def one_result_per_cell(run):
    """Whether every cell has one, but for plain decoding, which a worker that finishes a block runs once more."""
    again = Counter(record.cell for record in records(run, Result))
    planned = {cell.id for cell in RunFolder(run).read().plan.cells}
    return {cell.id for cell in again} == planned and all(
        count == 1 or cell.variant == "plain" for cell, count in again.items()
    )


def tokens(data):
    return {id_: result.token_ids for id_, result in data.results.items()}


@pytest.fixture(scope="module")
def meeting(cluster, tmp_path_factory):
    """An experiment whose workers wait for each other, and its results under the local engine, which waits for none."""
    folder = tmp_path_factory.mktemp("meeting")
    place = folder / "place"
    place.mkdir()
    write_pair(folder)
    variants = {
        "chain": "{name: chain}",
        "tree": "{name: ddtree, node_budget: 4}",
        # later than in the warm-up: whoever runs a cell waits until another does, and a block is left for it
        "meets": f"{{name: meeting, from_context: {num_tokens(folder, SHORT) + 4}, place: {place}}}",
    }
    path = write_experiment(folder, [SHORT, *MIDDLE, LONG], variants)
    for name in ("one", "other"):
        (place / name).touch()
    data = run_sweep(load_experiment(path), folder / "run")
    assert not data.missing
    for file in place.iterdir():
        file.unlink()
    return path, place, tokens(data)


@pytest.fixture(scope="module")
def whole(meeting, tmp_path_factory):
    """The same run on three workers, of which the cluster has room for two; and what was said about the third."""
    from caddtree.experiments.engines import ray_crew

    path, _, _ = meeting
    run = tmp_path_factory.mktemp("whole") / "run"
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_crew, "NOTICE_SECONDS", 0.5)
        patch.setattr(ray_crew.logger, "warning", lambda text, *values: said.append(text % values))
        run_sweep(load_experiment(path), run, engine=ray_engine(workers=3))
    return run, said


def test_every_cell_has_one_result_and_the_tokens_of_the_local_engine(meeting, whole):
    """Whatever worker it was run on."""
    run, _ = whole
    assert one_result_per_cell(run)
    assert tokens(RunFolder(run).read()) == meeting[2]


def test_all_workers_are_used_and_a_block_stays_on_one(whole):
    """Ratios within a block are paired; every worker leaves its environment on record, with the core that it has."""
    data = RunFolder(whole[0]).read()
    homes = {}
    for result in data.results.values():
        homes.setdefault(result.cell.block, set()).add(result.environment)

    assert all(len(environments) == 1 for environments in homes.values())
    assert len(data.environments) == 2
    assert {environment.facts["threads"] for environment in data.environments.values()} == {1}


def test_a_worker_without_a_place_is_mentioned_once_and_the_others_go_on(whole):
    """Three were asked for, two fit; until these have started, all three wait."""
    (said,) = whole[1]
    assert said[1:].startswith(" of 3 Ray workers wait for a place (1 CPU each); the cluster has 2 CPU and 0 GPU on 1")


@pytest.fixture(scope="module")
def ruined(cluster, tmp_path_factory):
    """A run in which one cell kills its worker once, one kills every worker and one hangs once."""
    folder = tmp_path_factory.mktemp("ruined")
    write_pair(folder)
    # later than in the warm-up, and farther than any other text comes
    at = num_tokens(folder, LONG) + 8
    variants = {
        "dies": f"{{name: faulty, do: kill, at_context: {at}, times: 1, counter: {folder / 'deaths'}}}",
        "kills": f"{{name: faulty, do: kill, at_context: {at}}}",
        "hangs": f"{{name: faulty, do: hang, at_context: {at}, times: 1, counter: {folder / 'silences'}}}",
    }
    path = write_experiment(folder, [SHORT, *MIDDLE, LONG], variants, f"timeout_seconds: {SILENCE_SECONDS}\n")
    snapshots = []
    file = folder / "run" / "records.jsonl"
    data = run_sweep(
        load_experiment(path),
        folder / "run",
        engine=ray_engine(workers=2),
        on_progress=lambda *_: snapshots.append(file.read_bytes() if file.exists() else b""),
    )
    return data, folder / "run", snapshots


def run_in_a_process(experiment, run, signal_name, num_cells, *address):
    """Run until so many cells are done, when the process sends itself a signal; return its exit code."""
    options = [str(experiment), str(run), signal_name, str(num_cells), *address]
    command = [sys.executable, "-m", "tests.experiments.ray_sweep_process", *options]
    return subprocess.run(command, cwd=ROOT, timeout=300, check=False, stderr=subprocess.DEVNULL).returncode


def lost(run, variant):
    return [record for record in records(run, Lost) if record.cell.variant == variant]


def test_a_cell_whose_worker_is_killed_is_run_again(ruined):
    """FT-40: one loss on record, then its result."""
    data, run, _ = ruined
    (record,) = lost(run, "dies")

    assert record.reason.startswith("the worker on ")
    assert "died (" in record.reason
    assert "\n" not in record.reason
    assert record.cell.id in data.results


def test_a_cell_that_kills_every_worker_is_given_up(ruined):
    """FT-41: after two, with the reason."""
    data, run, _ = ruined
    (failed,) = data.failed.values()

    assert failed.cell.variant == "kills"
    assert failed.reason.endswith("), 2 times")
    assert len(lost(run, "kills")) == 2
    assert len(records(run, Failed)) == 1


def test_a_cell_that_hangs_is_ended_and_run_again(ruined):
    """FT-41: by the clock of the experiment; its process does not sleep on."""
    data, run, _ = ruined
    (record,) = lost(run, "hangs")

    assert record.reason.endswith(f"said nothing for {SILENCE_SECONDS} seconds")
    assert record.cell.id in data.results
    assert all(has_ended(worker) for worker in records(run, Environment))


def test_all_other_cells_have_one_result_and_none_is_written_twice(ruined):
    """20 cells are planned, one is given up; the outputs of the rest are those of plain decoding."""
    data, run, _ = ruined
    again = Counter(record.cell.id for record in records(run, Result) if record.cell.variant != "plain")
    assert len(data.results) == len(data.plan.cells) - 1 == 19
    assert set(again.values()) == {1}
    assert data.missing == data.differing == ()


def test_what_was_written_before_a_death_stays_as_it_is(ruined):
    """Byte for byte, from record to record."""
    _, run, snapshots = ruined
    final = (run / "records.jsonl").read_bytes()

    assert len(snapshots) > 20
    assert all(final.startswith(snapshot) for snapshot in snapshots)


@pytest.mark.slow
def test_a_run_whose_process_is_killed_leaves_no_worker_and_goes_on(meeting, tmp_path):
    """FT-19: its workers end with it, and another instance completes the run to the same tokens."""
    path, place, expected = meeting
    for name in ("one", "other"):
        (place / name).touch()
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, ray_environment(patch):
        code = run_in_a_process(path, run, "SIGKILL", 6)
        (worker,) = records(run, Environment)
        # two of Ray's own processes ask the dead instance for a minute before they end, too
        assert has_ended(worker)
    kept = (run / "records.jsonl").read_bytes()
    data = run_sweep(load_experiment(path), run, engine=ray_engine(workers=1))

    assert code == -signal.SIGKILL
    assert len([line for line in kept.split(b"\n") if line.startswith(b'{"kind":"result"')]) == 6
    assert (run / "records.jsonl").read_bytes().startswith(kept)
    assert one_result_per_cell(run)
    assert tokens(data) == expected


@pytest.fixture
def small(cluster, tmp_path):
    """Two prompts, plain decoding and chains."""
    return write_experiment(tmp_path, [SHORT, LONG], {"chain": "{name: chain}"})


def test_an_interrupt_ends_the_workers_and_leaves_a_joined_cluster_alone(cluster, small, tmp_path):
    """Ctrl-C, in a process that joined by address: the cores are free again."""
    run = tmp_path / "run"
    code = run_in_a_process(small, run, "SIGINT", 1, cluster.get_runtime_context().gcs_address)
    (worker,) = records(run, Environment)

    assert code == INTERRUPTED
    assert len(records(run, Result)) == 1
    assert has_ended(worker)
    assert wait_until(lambda: cluster.available_resources().get("CPU") == 2)


@pytest.mark.slow
def test_a_variant_that_kills_its_workers_while_it_loads_is_given_up(cluster, tmp_path):
    """FT-41: its warm-up kills two workers; its cells fail, plain decoding is run by the third."""
    write_pair(tmp_path)
    deadly = f"{{name: faulty, do: kill, at_context: {num_tokens(tmp_path, SHORT)}}}"
    path = write_experiment(tmp_path, [SHORT], {"deadly": deadly})
    data = run_sweep(load_experiment(path), tmp_path / "run", engine=ray_engine(workers=1))
    (failed,) = data.failed.values()

    assert failed.cell.variant == "deadly"
    assert failed.reason.startswith("cannot be loaded: the worker on ")
    assert [result.cell.variant for result in data.results.values()] == ["plain"]
    assert not records(tmp_path / "run", Lost)


def test_a_target_that_cannot_be_loaded_is_the_loaders_error_with_its_node(small, tmp_path):
    """No other worker is tried."""
    (tmp_path / "target" / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"the worker on .* \(process \d+\): target.model .* cannot be loaded"):
        run_sweep(load_experiment(small), tmp_path / "run", engine=ray_engine())


def test_a_node_with_another_version_is_refused_by_name(small, tmp_path, monkeypatch):
    """Its results would carry the fingerprint of code that they were not made with."""
    from caddtree.experiments.engines import ray_crew

    known = ray_crew.software()
    monkeypatch.setattr(ray_crew, "software", lambda: {**known, "caddtree": "9.9", "numpy": known["numpy"] + "+other"})
    with pytest.raises(
        CompatibilityError, match=r"the worker on .* \(process \d+\): caddtree is 0.1.0, not 9.9. Install on every node"
    ):
        run_sweep(load_experiment(small), tmp_path / "run", engine=ray_engine())


def test_workers_that_fit_nowhere_are_an_error_not_a_wait(small, tmp_path, monkeypatch):
    """Three cores each, of two."""
    from caddtree.experiments.engines import ray_crew

    monkeypatch.setattr(ray_crew, "PLACEMENT_SECONDS", 1.0)
    with pytest.raises(
        ResourceError,
        match=r"1 of 1 Ray workers wait for a place \(3 CPU each\); the cluster has 2 CPU and 0 GPU on 1 node, .*"
        r"None was placed in 1 seconds: ask for fewer threads",
    ):
        run_sweep(load_experiment(small), tmp_path / "run", engine=ray_engine(threads=3))


def test_an_address_beside_an_open_connection_is_refused(small, tmp_path):
    """It could be another cluster."""
    with pytest.raises(InputError, match="connected to a Ray cluster already; leave the address auto out"):
        run_sweep(load_experiment(small), tmp_path / "run", engine=ray_engine(address="auto"))


def test_an_address_where_nobody_listens_is_an_error_at_once(small, tmp_path, monkeypatch):
    """Ray itself would go on trying for many minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    ray = types.SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(InputError, match=f"no Ray cluster at {address} to join: .*Connection refused"):
        run_sweep(load_experiment(small), tmp_path / "run", engine=ray_engine(address=address))


def test_without_ray_the_extra_is_named(monkeypatch):
    """One line, before anything is planned."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"the engine ray needs Ray: pip install 'caddtree\[ray\]'"):
        ray_engine()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, found 0"),
        ({"threads": -1}, "threads must be at least 1, found -1"),
        ({"address": "ray://head:10001"}, "ray://head:10001 is that of a Ray client.*with the address auto"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_out_of_range_are_refused(options, message):
    """By name and value, before Ray is started."""
    with pytest.raises(InputError, match=message):
        ray_engine(**options)
