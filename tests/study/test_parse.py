"""Malformed YAML: exit code 2, one sentence that names the place, and no time or memory spent on it."""

import itertools
import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tombola.engine.local import dataset
from tombola.errors import TombolaError
from tombola.study.parse import parse
from tombola.study.plan import plan_study
from tombola.study.spec import unfold

STUDY = {
    "name": "small",
    "data": "{name: digits, args: {validation: 0, test: 1500}}",
    "model": "{name: mlp, args: {hidden: [8]}}",
    "train": "{epochs: 1}",
    "prune": "{levels: 1}",
}
PAIRS = list(zip("abcdefgh", "bcdefghi", strict=True))


def text_of(**changes):
    return "".join(f"{name}: {value}\n" for name, value in (STUDY | changes).items())


def multiplied(first, line):
    """Anchors a to i, each with ten of the one before."""
    return f"a: &a {first}\n" + "".join(line.format(after=b, tens=", ".join([f"*{a}"] * 10)) for a, b in PAIRS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (text_of(name=".."), r"name is '\.\.'; the output folder is named so"),
        (text_of(name="."), r"name is '\.'"),
        (text_of(name="a/b"), r"name is 'a/b'"),
        (text_of(name="2024-01-01"), "name is 2024-01-01, a date in YAML; put it in quotes"),
        (text_of(name="2024-13-45"), "has a value that YAML does not know: month must be in 1..12"),
        (text_of(name='"a\\0b"'), r"name is 'a\\x00b'; a text has .* no NUL"),
        (text_of(name="a\0b"), "is not YAML: .*special characters are not allowed"),
        (text_of(name='"a\\ud800b"'), r"name is 'a\\ud800b'; a text has"),
        (text_of(description="x" * 2001), "description is 'xxx"),
        (text_of(seeds="[" + "9" * 5000 + "]"), "has a value that YAML does not know: Exceeds the limit"),
        (text_of(seeds="[0x" + "f" * 5000 + "]"), r"seeds\.0 is a whole number of 2\*\*63 or more"),
        (text_of(seeds="!!set {a}"), "seeds is .*, a set in YAML"),
        (text_of(seeds="!!python/object:os.system x"), "could not determine a constructor"),
        (text_of(arms="[" * 1000 + "]" * 1000), "at line 6: it is nested in more than 20 levels"),
        (text_of(arms="[" * 50 + "]" * 50), "it is nested in more than 20 levels"),
        (text_of(arms="&a [*a]"), "20 levels; an alias may repeat or contain itself"),
        (text_of() + multiplied("[x, x]", "{after}: &{after} [{tens}]\n"), "has over 20,000 values"),
        (text_of() + multiplied("{x: 1}", "{after}: &{after} {{<<: [{tens}]}}\n"), "merges too many values"),
        (text_of(prune="{levels: 1000000000}"), "prune.levels is 1000000000; give at most 1000"),
        (text_of() + "train: {epochs: 2}\n", "is not YAML at line 6: 'train' is given twice"),
        (text_of(train="{epochs: 1, epochs: 2}"), "'epochs' is given twice"),
        (
            text_of(train="{" + ", ".join(f"{n}: {[0.5] * 99}" for n in ("lr", "heat", "clip_norm")) + "}"),
            "fan out into more",
        ),
        (text_of(model="{name: mlp, args: {hidden: [0]}}"), "model 'mlp' has no weights in .*; give sizes above 0"),
        (text_of(views="[os:system]"), "analysis 'os:system' failed: TypeError"),
        (text_of(views="[sys:exit]"), "analysis 'sys:exit' failed: SystemExit"),
        (text_of() + "1: 2\n", "has the key 1; a key is a text"),
        (text_of() + f"{'x' * 101}: 2\n", "has the key 'xxx"),
    ],
    ids=itertools.count(),
)
def test_malformed_settings_are_one_sentence(text, sentence):
    dataset(unfold(parse(text_of(), "study.yaml"))[0].study.data)  # loaded once a process
    began = time.process_time()
    with pytest.raises(TombolaError) as caught:
        plan_study(unfold(parse(text, "study.yaml")), dataset)
    said = str(caught.value)
    assert re.search(sentence, said), said
    assert len(said) < 300
    assert "\n" not in said
    assert time.process_time() - began < 5  # minutes for aliases that multiply, before they were counted


def test_anchors_and_merges_are_allowed():
    text = text_of(train="{<<: &fast {epochs: 3, lr: 0.02}, lr: 0.01}", evaluate="{samples: 2}")
    assert parse(text, "study.yaml")["train"] == {"epochs": 3, "lr": 0.01}


BROKEN = st.one_of(
    st.sampled_from(
        [
            "[",
            "]",
            "{",
            "}",
            "{a: b: c}",
            "*nowhere",
            "&a &b 1",
            "!!set {a}",
            "!!binary eA==",
            "!x y",
            "2024-01-01",
            "%",
            "@",
        ]
    ),
    st.integers(min_value=2**63).map(str),
    st.integers(min_value=2, max_value=2000).map(lambda n: "[" * n + "]" * n),
    st.characters(categories=["Cc", "Cs"], exclude_characters="\n\r\t\x85").map(lambda c: f'"\\u{ord(c):04x}"'),
    st.text(st.characters(categories=["L", "N", "S"]), min_size=1, max_size=3000).map(lambda text: f"x{text}"),
)
"""Values that no field of a study takes: texts where numbers belong, and what is no YAML at all."""
PLACES = st.sampled_from(
    ["seeds", "data", "model", "posterior", "train", "prune", "evaluate", "arms", "threads", "checkpoint_seconds"]
)


@given(place=PLACES, inside=st.booleans(), value=BROKEN)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_malformed_yaml_is_refused(refused, study_file, place, inside, value):
    check(refused, study_file, place, inside, value)


@pytest.mark.slow
@given(place=PLACES, inside=st.booleans(), value=BROKEN)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_more_malformed_yaml_is_refused(refused, study_file, place, inside, value):
    check(refused, study_file, place, inside, value)


def check(refused, study_file, place, inside, value):
    """One sentence for a broken value, of a section itself or of a field that no section has."""
    path = study_file(text_of(**{place: f"{{none: {value}}}" if inside else value}))
    assert len(refused("run", path, "--out", "out", "--dry-run")) < 300


CHANGES = st.one_of(
    st.tuples(PLACES, BROKEN).map(lambda pair: f"{pair[0]}.none={pair[1]}"),  # of a field that no section has
    st.tuples(st.sampled_from(["train.epochs", "prune.levels", "seeds", "model.name"]), BROKEN).map("=".join),
    st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="=-"), max_size=3000),  # no PATH=VALUE
    st.sampled_from(["=", "=1", ".=1", "train..lr=1", "train.lr.x.y=1", "train.epochs", "[=1", "a" * 5000 + "=1"]),
)
ARGUMENTS = st.one_of(
    CHANGES.map(lambda change: ["--set", change]),
    st.sampled_from(["nan", "-1", "0", "x", "", "1e400"]).map(lambda text: ["--minutes", text]),
    st.sampled_from(["-1", "0", "x", "1.5", "9" * 5000]).map(lambda text: ["--jobs", text]),
    st.text(st.characters(categories=["L", "P"], exclude_characters="-/."), min_size=1, max_size=200).map(
        lambda word: ["--device", f"x{word}"]
    ),
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=2000).map(lambda word: [f"--no{word}"]),
)


def fuzz(examples):
    """Changes and arguments are refused: exit code 2, and one sentence (of typer in a box) that is short."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(arguments=ARGUMENTS)
    def run(cli, study_file, arguments):
        result = cli("run", study_file(text_of()), "--out", "out", "--dry-run", *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert "Traceback" not in result.output
        if "Usage:" not in result.stderr:
            (line,) = result.stderr.splitlines()
            assert line.startswith("tombola: ")
            assert len(line) < 300 + len("tombola: "), line

    return run


test_malformed_arguments_are_refused = fuzz(10)
test_more_malformed_arguments_are_refused = pytest.mark.slow(fuzz(300))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("2:4", "2:4"), ("1:30.5", "1:30.5"), ("010", "010"), ("8", 8), ("0", 0), ("-3", -3), ("0x1f", 31)),
        *(("1_000", 1000), ("1.5", 1.5), ("-.5", -0.5), ("1.0e-3", 0.001), (".inf", float("inf")), ("1e-3", "1e-3")),
    ],
)
def test_numbers_of_base_8_and_60_are_texts(text, value):
    """PyYAML alone reads 2:4 as 124 and 010 as 8."""
    found = parse(text, "it")
    assert (type(found), found) == (type(value), value)
