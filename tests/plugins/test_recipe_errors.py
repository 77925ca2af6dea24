"""FT-10: broken recipes, each refused with its place, all errors at once, quickly and in little memory."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from caddtree.core.errors import RecipeError
from caddtree.plugins.recipe import load_recipe
from caddtree.plugins.registry import Registry

TARGET = "target: {model: m}\n"
DRAFTER = "drafter: {name: dflash, model: d}\n"
GOOD = TARGET + DRAFTER
BUILDER = GOOD + "tree_builder:\n  name: caddtree\n"
ALIAS_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

BROKEN: dict[str, tuple[str | bytes, list[str]]] = {
    "type": (
        BUILDER + "  max_node_budget: many\n",
        ["5:20: tree_builder.max_node_budget: must be an integer, found 'many'"],
    ),
    "type-bool": (BUILDER + "  max_node_budget: true\n", ["5:20: tree_builder.max_node_budget: must be an integer"]),
    "type-float": (BUILDER + "  max_node_budget: 6.5\n", ["must be an integer, found 6.5, a float"]),
    "type-quoted": (BUILDER + "  max_node_budget: '64'\n", ["found '64', a string; remove the quotes"]),
    "type-list": (BUILDER + "  max_node_budget: [1]\n", ["must be an integer, found a list of 1"]),
    "range": (BUILDER + "  max_node_budget: 0\n", ["5:20: tree_builder.max_node_budget: must be >= 1: 0"]),
    "range-target": (
        "target: {model: m, prefill_chunk: 0}\n" + DRAFTER,
        ["1:35: target.prefill_chunk: must be at least 1"],
    ),
    "range-generation": (
        GOOD + "generation: {temperature: -1}\n",
        ["3:27: generation.temperature: must be at least 0"],
    ),
    "range-infinite": (
        GOOD + "generation: {temperature: .inf}\n",
        ["3:27: generation.temperature: must be at least 0"],
    ),
    "too-large": (GOOD + "generation: {temperature: 1e999}\n", ["3:27: found 1e999 is too large for a float"]),
    "unknown-key": (
        BUILDER + "  max_node_budgt: 6\n",
        ["5:3: tree_builder.max_node_budgt", "did you mean max_node_budget?"],
    ),
    "unknown-section": (GOOD + "tree_bilder: {}\n", ["3:1: tree_bilder: is no section", "did you mean tree_builder?"]),
    "unknown-kind": (
        GOOD + "tree_builder: {name: cadtree}\n",
        ["3:22: tree_builder.name: unknown tree_builder 'cadtree'; did you mean caddtree? allowed: caddtree, chain"],
    ),
    "missing-key": (
        TARGET + "drafter: {name: dflash}\n",
        ["2:10: drafter.model: is missing; drafter dflash needs it, a string"],
    ),
    "missing-name": (TARGET + "drafter: {model: d}\n", ["2:10: drafter.name: is missing; add one of dflash, none"]),
    "missing-drafter": (TARGET, [": drafter: is missing; add a line such as drafter: {name: NAME}"]),
    "missing-target": (DRAFTER, [": target: is missing; add a line such as target: {model: FOLDER}"]),
    "wrong-nesting": (
        GOOD + "tree_builder: caddtree\n",
        ["3:15: tree_builder: must be a mapping", "write {name: caddtree}"],
    ),
    "wrong-nesting-list": (
        GOOD + "tree_builder:\n  - name: caddtree\n",
        ["4:3: tree_builder: must be a mapping, found a list"],
    ),
    "empty-section": (GOOD + "generation:\n", ["3:12: generation: must be a mapping, found nothing"]),
    "nested-option": (
        BUILDER + "  search: {kind: scan}\n",
        ["5:11: tree_builder.search: must be one of scan, first_stop"],
    ),
    "name-is-a-number": (GOOD + "verifier: {name: 3}\n", ["3:18: verifier.name: must be a string, found 3"]),
    "duplicate-key": (BUILDER + "  low: 1\n  low: 2\n", ["6:3: found the key 'low' twice, first at line 5; keep one"]),
    "duplicate-section": (GOOD + DRAFTER, ["3:1: found the key 'drafter' twice"]),
    "tab": (GOOD + "tree_builder:\n\tname: caddtree\n", ["4:1: found a tab in the indentation; indent with spaces"]),
    "unclosed-flow": (
        GOOD + "generation: {seed: 1\n",
        ["4:1: is not YAML: did not find expected ',' or '}'", "line 3"],
    ),
    "unclosed-quote": (GOOD + "description: 'x\n", ["is not YAML: found unexpected end of stream"]),
    "no": (BUILDER + "  exact: no\n", ["5:10: tree_builder.exact: must be true or false, found 'no', a string"]),
    "octal-look": (GOOD + "target2: 016\nverifier: {name: 016}\n", ["4:18: verifier.name: must be a string, found 16"]),
    "sexagesimal": (BUILDER + "  low: 1:30\n", ["5:8: tree_builder.low: must be an integer, found '1:30', a string"]),
    "bom": (
        b"\xef\xbb\xbf" + GOOD.encode(),
        ["1:1: starts with a byte order mark; save the file as UTF-8 without one"],
    ),
    "utf-16": (GOOD.encode("utf-16"), ["1:1: starts with a byte order mark"]),
    "non-utf-8": (
        TARGET.encode() + b"description: caf\xe9\n",
        ["2:17: byte 0xe9 is not valid UTF-8; save the file as UTF-8"],
    ),
    "control-character": (GOOD + "description: a\x1bb\n", ["3:15: character '\\x1b' is not allowed"]),
    "empty": ("", [": is empty; a recipe names at least a target and a drafter"]),
    "only-comments": ("# nothing\n", [": is empty"]),
    "list-at-top": ("- target\n- drafter\n", ["1:1: must be a mapping of sections", "found a list"]),
    "scalar-at-top": ("demo\n", ["1:1: must be a mapping of sections", "found a single value"]),
    "two-documents": (GOOD + "---\n" + GOOD, ["3:1: found a second document"]),
    "3-megabytes": (GOOD + "# " + "x" * 3_000_000, [": is larger than 1048576 bytes"]),
    "deep-flow": ("target: " + "[" * 5000 + "]" * 5000, ["1:40: is nested deeper than 32 levels"]),
    "deep-block": ("".join(" " * i + "a:\n" for i in range(600)), ["33:33: is nested deeper than 32 levels"]),
    "alias-bomb": (GOOD + ALIAS_BOMB, ["3:4: found the anchor 'a'", "4:8: found the alias 'a'"]),
    "many-values": (GOOD + "x: [" + "1, " * 300_000 + "]", ["holds more than 10000 values"]),
    "many-keys": (
        GOOD + "".join(f"k{i}: 1\n" for i in range(4900)),
        ["3:1: k0: is no section", "and 4880 more unknown"],
    ),
    "long-key": (GOOD + "k" * 900_000 + ": 1\n", ["is not YAML"]),
    "long-value": (
        "target: {model: m, dtype: " + "x" * 1_000_000 + "}\n" + DRAFTER,
        ["1:27: target.dtype: must be one of"],
    ),
    "python-tag": (
        "target: !!python/object/apply:os.system ['touch hacked']\n" + DRAFTER,
        ["1:9: found the tag 'tag:yaml.org,2002:python/object/apply:os.system'"],
    ),
    "string-tag": (BUILDER + "  search: !!str scan\n", ["5:11: found the tag 'tag:yaml.org,2002:str'"]),
    "merge-key": (
        GOOD + "generation:\n  <<: {seed: 1}\n",
        ["4:3: found the merge key <<; write the keys out, or use extends"],
    ),
    "number-as-key": (BUILDER + "  1: x\n", ["5:3: keys must be words, found '1'"]),
    "remote-code": ("target: {model: m, trust_remote_code: true}\n" + DRAFTER, ["never runs code from a model folder"]),
    "device": (
        "target: {model: m, device: GPU 0}\n" + DRAFTER,
        ["1:28: target.device: must be auto or a device such as"],
    ),
    "empty-model": ("target: {model: ''}\n" + DRAFTER, ["1:17: target.model: must not be empty"]),
    "stop-is-text": (GOOD + "generation: {stop: END}\n", ["3:20: generation.stop: must be a list", "write ['END']"]),
    "stop-of-numbers": (GOOD + "generation: {stop: [a, 1]}\n", ["3:24: generation.stop[1]: must be a string, found 1"]),
    "description": (GOOD + "description: [x]\n", ["3:14: description: must be a string, found a list of 1"]),
}


def error_of(path: Path, registry: Registry) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(path, registry=registry)
    return str(error.value)


@pytest.mark.parametrize("name", BROKEN)
def test_ft_10_a_broken_recipe_is_refused_with_its_place(tmp_path: Path, registry: Registry, name: str) -> None:
    """FT-10: ``file:line:col: path: message``, or ``file: message``; under half a second and 200 MB."""
    content, expected = BROKEN[name]
    path = tmp_path / "broken.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)

    # of the processor, not of the clock: other tests run beside this one; the best of two, because what they left
    # behind (garbage to collect, say) may be paid for here
    seconds = []
    for _ in range(2):
        begin = time.process_time()
        message = error_of(path, registry)
        seconds.append(time.process_time() - begin)

    assert min(seconds) < 0.5
    for part in expected:
        assert part in message
    assert all(line.startswith(f"{path}:") for line in message.splitlines())
    assert len(message) < 20_000
    assert not (tmp_path / "hacked").exists()
    tracemalloc.start()
    try:
        error_of(path, registry)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


def test_ft_10_what_is_no_file_is_refused(tmp_path: Path, registry: Registry) -> None:
    """FT-10: a missing file, a directory, a loop of links: file-level messages."""
    (tmp_path / "a.yaml").symlink_to(tmp_path / "b.yaml")
    (tmp_path / "b.yaml").symlink_to(tmp_path / "a.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nowhere")

    assert error_of(tmp_path / "missing.yaml", registry) == f"{tmp_path}/missing.yaml: no such file; check the path"
    assert error_of(tmp_path / "dangling.yaml", registry) == f"{tmp_path}/dangling.yaml: no such file; check the path"
    assert error_of(tmp_path / "folder.yaml", registry).endswith(
        "folder.yaml: is a directory; name the YAML file in it"
    )
    assert "a.yaml: cannot be read: Too many levels of symbolic links" in error_of(tmp_path / "a.yaml", registry)


def test_ft_10_all_errors_of_a_file_come_in_one_run(tmp_path: Path, registry: Registry) -> None:
    """FT-10: YAML that is refused, wrong values, unknown names and missing sections, in the order of the lines."""
    path = tmp_path / "many.yaml"
    path.write_text(
        "drafter: {name: dflsh}\n"
        "tree_builder: {name: caddtree, low: x, low: 1, share: [], serch: 1}\n"
        "verifier: &v {name: sdpa}\n"
        "generation: {seed: -1, top_p: 2, 3: 4}\n"
        "cost_model: *v\n"
    )

    lines = error_of(path, registry).splitlines()

    places = ["1:17", "2:37", "2:40", "2:55", "2:59", "3:11", "4:20", "4:31", "4:34", "5:13"]
    assert [line.split(": ")[0] for line in lines] == [f"{path}", *(f"{path}:{place}" for place in places)]
    assert lines[0].startswith(f"{path}: target: is missing")


def test_ft_10_the_list_of_errors_is_bounded(tmp_path: Path, registry: Registry) -> None:
    """FT-10: a machine-made file does not flood the terminal."""
    path = tmp_path / "bomb.yaml"
    path.write_text(GOOD + "".join(f"k{i}: &a{i} 1\n" for i in range(2000)))

    lines = error_of(path, registry).splitlines()

    assert len(lines) == 51
    assert lines[-1].startswith(f"{path}: and ")


def test_ft_10_hostile_files_need_little_memory_and_no_strategy(tmp_path: Path) -> None:
    """FT-10: a process with an address space of 200 MB refuses them all, without torch."""
    names = ["deep-flow", "deep-block", "many-values", "3-megabytes", "non-utf-8", "unclosed-flow", "long-key"]
    for name in names:
        content = BROKEN[name][0]
        (tmp_path / f"{name}.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    code = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from caddtree.core.errors import RecipeError\n"
        "from caddtree.plugins.recipe import load_recipe\n"
        "resource.setrlimit(resource.RLIMIT_AS, (200_000_000, 200_000_000))\n"
        "for path in sorted(Path(sys.argv[1]).glob('*.yaml')):\n"
        "    begin = time.process_time()\n"
        "    try: load_recipe(path)\n"
        "    except RecipeError as error: print(error)\n"
        "    assert time.process_time() - begin < 0.5, path\n"
        "assert 'torch' not in sys.modules\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(names)
