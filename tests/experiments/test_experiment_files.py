"""Experiments from YAML: axes expand, settings stay apart, every error has its place."""

from __future__ import annotations

import types

import attrs
import pytest

from caddtree.core.errors import RecipeError
from caddtree.experiments.experiment_files import load_experiment, shipped_descriptions, shipped_experiments
from caddtree.plugins.hooks import hookimpl
from caddtree.plugins.recipe import load_recipe
from caddtree.plugins.registry import Provider, Registry

DEMO = "base: demo\ndatasets: [reasoning]\n"


def load(tmp_path, text, sets=()):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_experiment(path, sets)


def names(experiment):
    return [variant.name for variant in experiment.variants]


@pytest.mark.parametrize("name", sorted(shipped_experiments()))
def test_every_shipped_experiment_loads_and_says_what_it_is_about(name):
    """Also with the demo pair in place of its own base, as its comment says."""
    load_experiment(name)
    experiment = load_experiment(name, ["base=demo", "datasets=[reasoning,code]"])

    assert experiment.variants[0].recipe.drafter.name == "none"
    assert len(experiment.variants) > 3
    assert shipped_descriptions()[name] == experiment.description != ""


def test_a_list_inside_a_stage_multiplies(tmp_path):
    """Two budgets are two variants; plain decoding comes first, unasked."""
    experiment = load(
        tmp_path, DEMO + "axes:\n  tree_builder: [chain, {name: ddtree, node_budget: [16, 64]}, caddtree]\n"
    )

    assert names(experiment) == ["plain", "chain", "ddtree-16", "ddtree-64", "caddtree"]
    budgets = [variant.recipe.tree_builder.options.get("node_budget") for variant in experiment.variants]
    assert budgets == [None, None, 16, 64, None]
    assert all(variant.recipe.drafter.name == "dflash" for variant in experiment.variants[1:])


def test_axes_multiply_and_name_what_differs(tmp_path):
    """Two stages: the last one turns fastest."""
    text = DEMO + "axes:\n  cost_model: [table, analytic]\n  tree_builder.objective: [price, ratio]\n"
    experiment = load(tmp_path, text)

    assert names(experiment)[1:] == [
        "table, objective=price",
        "table, objective=ratio",
        "analytic, objective=price",
        "analytic, objective=ratio",
    ]


def test_a_cost_model_that_nobody_asks_makes_no_second_variant(tmp_path):
    """The chain is the same under both models and is run once; the adaptive builder is run under each."""
    experiment = load(tmp_path, DEMO + "axes:\n  tree_builder: [chain, caddtree]\n  cost_model: [table, convex]\n")

    assert names(experiment) == ["plain", "chain", "caddtree, table", "caddtree, convex"]


def test_request_options_are_settings_not_variants(tmp_path):
    """Every variant is run at every temperature and compared with plain decoding at the same one."""
    text = DEMO + "axes:\n  tree_builder: [chain, caddtree]\n  temperature: [0, 0.7]\n  top_p: [0.9]\n"
    experiment = load(tmp_path, text)

    assert names(experiment) == ["plain", "chain", "caddtree"]
    assert [setting.label for setting in experiment.settings] == [
        "temperature=0, top_p=0.9",
        "temperature=0.7, top_p=0.9",
    ]
    assert [setting.options.temperature for setting in experiment.settings] == [0.0, 0.7]
    assert [setting.options.top_p for setting in experiment.settings] == [0.9, 0.9]


def test_what_is_fixed_holds_for_all(tmp_path):
    """Also for plain decoding and for the request; a stage may be given by its name alone."""
    text = (
        DEMO
        + "axes: {tree_builder: [chain, caddtree]}\nfixed: {generation: {max_new_tokens: 7}, cost_model: analytic}\n"
    )
    experiment = load(tmp_path, text)

    assert experiment.settings[0].options.max_new_tokens == 7
    assert {variant.recipe.cost_model.name for variant in experiment.variants} == {"analytic"}


def test_variants_may_be_written_out(tmp_path):
    """Beside axes, with names of their own, and as the baseline."""
    text = DEMO + (
        "axes: {tree_builder: [chain]}\n"
        "variants:\n  words: {drafter: ngram}\n  small: {tree_builder: {name: ddtree, node_budget: 4}}\n"
        "baseline: words\n"
    )
    experiment = load(tmp_path, text)

    assert names(experiment) == ["plain", "chain", "words", "small"]
    assert experiment.baseline == "words"
    assert experiment.variants[2].recipe.drafter.name == "ngram"


def test_excluded_combinations_are_left_out(tmp_path):
    """By the names of their choices."""
    text = DEMO + (
        "axes:\n  drafter: [{name: dflash, model: x/y}, ngram]\n  tree_builder: [chain, caddtree]\n"
        "exclude: [{drafter: ngram, tree_builder: chain}]\n"
    )
    assert names(load(tmp_path, text))[1:] == [
        "dflash model=x/y, chain",
        "dflash model=x/y, caddtree",
        "ngram, caddtree",
    ]


def test_a_base_recipe_beside_the_file_and_model_paths_in_it_are_found(tmp_path):
    """Relative to their own files, wherever the command runs."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("extends: demo\ntarget: {model: ./somewhere}\n")
    experiment = load(tmp_path, "base: ./recipes/mine.yaml\naxes: {tree_builder: [chain]}\ndatasets: [code]\n")

    assert experiment.variants[0].recipe.target.model == str(tmp_path / "recipes" / "somewhere")


def test_sets_replace_single_keys(tmp_path):
    """As for recipes; an axis is replaced as a whole."""
    text = DEMO + "axes: {tree_builder: [chain, caddtree], temperature: [0]}\nprompts: 8\n"
    experiment = load(tmp_path, text, ["prompts=2", "axes.tree_builder=[ngram_is_none]", "seeds=[3, 4]"][::2])

    assert experiment.datasets[0].limit == 2
    assert experiment.options.seeds == (3, 4)
    with pytest.raises(RecipeError, match=r"--set axes\.tree_builder"):
        load(tmp_path, text, ["axes.tree_builder=[ngram_is_none]"])


def test_the_limit_of_a_data_set_wins_over_that_of_all(tmp_path):
    """8 of each, 3 of one."""
    text = "base: demo\naxes: {tree_builder: [chain]}\nprompts: 8\ndatasets: [code, {name: reasoning, limit: 3}]\n"
    assert [choice.limit for choice in load(tmp_path, text).datasets] == [8, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axis: {}\n", r"mine.yaml:3:1: axis: is no key of an experiment; did you mean axes\?"),
        ("axes: {tree_builder: [chian]}\n", r"mine.yaml:3:23: tree_builder.name: .*chian.*did you mean chain"),
        ("axes: {treebuilder: [chain]}\n", r"3:8: axes.treebuilder: is nothing to vary; did you mean tree_builder"),
        ("axes: {target.dtype: [float32]}\n", r"mine.yaml:3:8: axes.target.dtype: one experiment has one target"),
        ("axes: {seed: [1]}\n", r"axes.seed: is a key of its own: seeds"),
        ("axes: {temperature: [-1]}\n", r"mine.yaml:3:22: generation.temperature: must be at least 0, found -1"),
        ("axes: {tree_builder: [chain, chain]}\n", r"axes.tree_builder: holds chain twice"),
        ("axes: {tree_builder: []}\n", r"axes.tree_builder: must hold at least one value"),
        ("axes: {tree_builder: [3]}\n", r"mine.yaml:3:23: axes.tree_builder: must be the name of a strategy"),
        ("axes: [chain]\n", r"axes: must be a mapping"),
        ("axes: {tree_builder: [{name: ddtree, node_budget: [16, 0]}]}\n", r"node_budget must be at least 1|0"),
        ("axes: {tree_builder: [chain]}\nbaseline: chian\n", r"4:11: baseline: must be a variant.*did you mean chain"),
        ("axes: {tree_builder: [chain]}\nseeds: [1, 1]\n", r"seeds: must be at least one seed, none twice, found"),
        ("axes: {tree_builder: [chain]}\nrepeats: 0\n", r"mine.yaml:4:10: experiment.repeats"),
        ("axes: {tree_builder: [chain]}\nprompts: many\n", r"experiment.prompts: must be an integer or null"),
        ("axes: {tree_builder: [chain]}\nexclude: [{drafter: ngram}]\n", r"exclude: is no axis that makes variants"),
        ("axes: {tree_builder: [chain]}\nexclude: [{tree_builder: x}]\n", r"exclude: 'x' is not on this axis"),
        ("variants: {plain: {drafter: ngram}}\n", r"variants.plain: is plain decoding"),
        ("variants: {a: {generation: {temperature: 1}}}\n", r"variants.a.generation: holds for all variants"),
        ("variants: {a: ngram}\n", r"variants.a: must be sections of a recipe"),
        ("", r"holds no variant besides plain decoding"),
        ("axes: {generation.seed: [1]}\n", r"axes.generation.seed: is a key of its own: seeds"),
        ("axes: {temperature: [0], generation.temperature: [1]}\n", r"is varied by temperature already; keep one"),
        ("axes: {tree_builder: [chain], temperature: [0, 0.0]}\n", r"temperature=0.0 is the same as temperature=0"),
        ("axes: {tree_builder: [{}]}\n", r"axes.tree_builder: must be the name of a strategy or a mapping"),
        ("axes: {tree_builder: [chain]}\ntimeout_seconds: .inf\n", r"4:18: experiment.timeout_seconds: .*604800"),
        ("axes: {tree_builder: [{name: ddtree, node_budget: [64]}, ddtree]}\n", r"axes: makes ddtree-64 and ddtree"),
        ("variants: {'': {drafter: ngram}}\n", r"3:12: variants: a variant needs a name"),
        ("variants: {ar: {drafter: none, tree_builder: chain}}\n", r"variants.ar: is the same pipeline as plain"),
        ("axes: {tree_builder: [chain]}\nexclude: [{tree_builder: [chain]}]\n", r"exclude: must be one word"),
        ("axes: {tree_builder: [chain]}\nexclude: [{tree_builder: chain}]\n", r"excludes every combination"),
        ("axes: {tree_builder: [chain]}\nfixed: {generation: {max_new_tokens: no}}\n", r"4:38: .*max_new_tokens"),
    ],
)  # fmt: skip
def test_wrong_experiments_say_what_and_where(tmp_path, text, message):
    """File, line and column, and the nearest right word."""
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, DEMO + text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes: {tree_builder: [chain]}\ndatasets: [code]\n", "base: must be the name of a shipped recipe"),
        ("base: dmeo\naxes: {tree_builder: [chain]}\ndatasets: [code]\n", r"mine.yaml:1:7: base: .*did you mean demo"),
        ("base: demo\naxes: {tree_builder: [chain]}\n", "datasets: must name at least one"),
        ("base: demo\naxes: {tree_builder: [chain]}\ndatasets: [cod]\n", r"mine.yaml:3:12: datasets\[0\]: .*code"),
        ("base: demo\naxes: {tree_builder: [chain]}\ndatasets: [code, code]\n", r"datasets\[1\]: names code twice"),
        ("base: demo\naxes: {tree_builder: [chain]}\ndatasets: [{name: code, limit: 0}]\n", r"mine.yaml:3:32: .*limit"),
        ("base: demo\naxes: {tree_builder: [chain]}\ndatasets: [[code]]\n", r"must be a name, a path or a mapping"),
        ("- a\n", "must be a mapping with base, axes and datasets"),
    ],
)
def test_missing_parts_are_named(tmp_path, text, message):
    """Base, data sets, the mapping itself."""
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, text)


def test_all_errors_of_a_file_come_at_once(tmp_path):
    """One look is enough."""
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "base: demo\naxes: {tree_builder: [chain], heat: [1]}\ndatasets: [cod]\nrepeats: x\nfoo: 1\n")

    assert len(str(caught.value).splitlines()) == 4


def test_an_unknown_experiment_names_the_shipped_ones():
    """With the nearest first."""
    with pytest.raises(RecipeError, match="did you mean budgets"):
        load_experiment("budget")
    with pytest.raises(RecipeError, match="no such file"):
        load_experiment("./nowhere.yaml")


def test_the_plain_variant_is_the_recipe_demo_plain():
    """Same target, same loop, no drafter."""
    plain = load_experiment("demo").variants[0].recipe
    shipped = load_recipe("demo-plain")

    assert (plain.target, plain.drafter, plain.tree_builder) == (shipped.target, shipped.drafter, shipped.tree_builder)


def test_a_whole_stage_does_not_undo_an_option_that_stands_before_it(tmp_path):
    """Options are laid on the strategies of the other axis, in whatever order the two are written."""
    experiment = load(tmp_path, DEMO + "axes:\n  tree_builder.node_budget: [16, 32]\n  tree_builder: [ddtree]\n")

    assert [v.recipe.tree_builder.options.get("node_budget") for v in experiment.variants] == [None, 16, 32]


def test_two_options_with_one_number_are_told_apart(tmp_path):
    """The short name is for the usual case."""
    text = DEMO + "axes: {drafter: [{name: ngram, draft_length: 3}, {name: ngram, max_suffix_length: 3}]}\n"
    assert names(load(tmp_path, text))[1:] == ["ngram draft_length=3", "ngram max_suffix_length=3"]


def test_the_seed_of_the_recipe_is_used_where_the_experiment_names_none(tmp_path):
    """Nothing that is written is ignored."""
    from caddtree.experiments.planning import make_plan
    from caddtree.experiments.sweep import load_all_prompts

    text = DEMO + "axes: {tree_builder: [chain], temperature: [1]}\nprompts: 1\nfixed: {generation: {seed: 7}}\n"
    experiment = load(tmp_path, text)
    plan, blocks = make_plan(experiment, load_all_prompts(experiment))

    assert {cell.seed for cell in plan.cells} == {7}
    assert blocks[0].request.seed == 7


def test_paths_of_data_sets_are_relative_to_the_file(tmp_path):
    """Bare names of files too, as the base's; names stay names."""
    text = (
        "base: demo\naxes: {tree_builder: [chain]}\ndatasets: [mine.jsonl, a/b.jsonl, {name: c, path: d.jsonl}, code]\n"
    )
    paths = [choice.path for choice in load(tmp_path, text).datasets]

    assert paths == [str(tmp_path / name) for name in ("mine.jsonl", "a/b.jsonl", "d.jsonl")] + [None]


def test_sections_of_the_report_and_observers_belong_to_all_variants(tmp_path):
    """A section is read like any list of strategies; an observer of one variant would end its texts elsewhere."""
    with pytest.raises(RecipeError, match=r"report\[0\]\.name: unknown report_section 'wasted'"):
        load(tmp_path, "base: demo\naxes: {tree_builder: [chain]}\ndatasets: [code]\nreport: [wasted]\n")
    with pytest.raises(RecipeError, match=r"report: must be a list"):
        load(tmp_path, "base: demo\naxes: {tree_builder: [chain]}\ndatasets: [code]\nreport: 7\n")
    for section in ("observers", "preprocessors"):
        text = f"base: demo\nvariants: {{mine: {{{section}: []}}}}\ndatasets: [code]\n"
        with pytest.raises(RecipeError, match=rf"variants\.mine\.{section}: holds for all variants: put it into fixed"):
            load(tmp_path, text)


def test_a_preprocessor_that_gives_plain_decoding_a_drafter_is_refused(tmp_path, monkeypatch):
    """Every speed-up would be over something else, and a variant would be taken for plain decoding."""
    registry = Registry()
    registry.load_built_in()
    drafter = load_recipe("demo").to_mapping()["drafter"]

    @attrs.frozen
    class Site:
        def process(self, sections):
            return {"drafter": drafter}

    def register(registry):
        registry.add("site", Site)

    plugin = types.SimpleNamespace(register_preprocessors=hookimpl(register))
    registry.load_plugin(plugin, Provider("site", "1.0", "site"))
    for module in ("caddtree.plugins.recipe", "caddtree.experiments.experiment_files"):
        monkeypatch.setattr(f"{module}.default_registry", lambda: registry)
    text = "base: demo\nfixed: {preprocessors: [site]}\naxes: {tree_builder: [chain, ddtree]}\ndatasets: [code]\n"
    with pytest.raises(RecipeError, match="names a pre-processor that gives plain decoding the drafter dflash"):
        load(tmp_path, text)
