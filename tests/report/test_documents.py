"""JSON and YAML of others are read within bounds, and ordinary ones as ever."""

import json

import pytest
import yaml
from jsonargparse import ArgumentParser

from vgp_lightning.report.documents import check_yaml, find_not_finite, read_json, read_yaml, restrict_parsers


def test_an_object_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, {"b": null}]}')
    assert read_json(path) == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [("[]", "holds a list"), ("{", "is not JSON"), ('{"a":' * 60 + "1" + "}" * 60, "nested more than 50 levels")],
)
def test_what_is_none_is_refused_with_its_file(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json.*{words}"):
        read_json(path)
    with pytest.raises(ValueError, match=r"b\.json cannot be read"):
        read_json(tmp_path / "b.json")


def test_numbers_that_are_not_finite_are_named():
    value = json.loads('{"a": {"b": [1, NaN, {"c": -Infinity}]}, "d": 1e999, "e": 2.5}')
    assert list(find_not_finite(value)) == ["a.b[1]", "a.b[2].c", "d"]


def test_aliases_are_written_out_up_to_a_bound():
    assert read_yaml("a: &x [1, 2]\nb: [*x, *x]\n", "text") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    doubled = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 20))
    with pytest.raises(ValueError, match="text cannot be read as YAML: its aliases stand for more than 100000 values"):
        read_yaml(doubled, "text")
    with pytest.raises(yaml.YAMLError, match="1000001 characters"):
        check_yaml("x" * 1_000_001)


def test_parsers_name_no_class_unless_they_may():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--free", type=dict)
    spec = '{"a": {"class_path": "calendar.Calendar"}}'
    for allowed in (True, False, True):
        restrict_parsers(classes=allowed)
        if allowed:
            value = parser.instantiate(parser.parse_args(["--free", spec])).free["a"]
            assert "Calendar()" not in repr(value)
            assert type(value).__name__ != "Calendar"
        else:
            with pytest.raises(Exception, match="dict"):
                parser.parse_args(["--free", spec])
