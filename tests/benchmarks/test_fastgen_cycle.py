"""What the comparison with FastGen does without FastGen: placeholders, names, counts and the table."""

import copy
import json
import sys

import pytest

from benchmarks import fastgen_cycle, fastgen_peer


def test_a_placeholder_gives_every_name_and_refuses_calls():
    module = fastgen_peer.placeholder("absent")
    assert module.Network is module.Network
    assert module.Mode.FULL == "Mode.FULL"
    with pytest.raises(RuntimeError, match="absent.Network is a placeholder"):
        module.Network(3)
    with pytest.raises(AttributeError):
        module.__all__  # noqa: B018  (or star imports would ask for names without end)


def test_the_finder_answers_for_its_names_and_what_is_below_them(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [fastgen_peer._Finder(["absent_package"]), *sys.meta_path])
    from absent_package.inner import thing  # type: ignore[import-not-found]

    for name in [name for name in sys.modules if name.startswith("absent_package")]:
        del sys.modules[name]
    assert thing.__module__ == "absent_package.inner"
    assert fastgen_peer._Finder(["absent_package"]).find_spec("absent_package_two") is None


def test_missing_names_only_what_is_not_installed():
    assert fastgen_peer.missing(["json", "absent_package"]) == ["absent_package"]


def test_a_configuration_is_a_dict_with_attributes_and_copies_deeply():
    config = fastgen_peer.DictConfig({"a": [1]}, flags={"allow_objects": True})
    config.b = 2
    other = copy.deepcopy(config)
    other.a.append(3)
    assert type(other) is fastgen_peer.DictConfig and dict(config) == {"a": [1], "b": 2}
    assert not hasattr(config, "c")


def test_the_last_block_of_a_level_gives_the_features():
    names = ["32x32_conv", "32x32_block0", "32x32_block1", "16x16_down"]
    assert fastgen_peer.renamed_blocks(names, 2) == ["32x32_conv", "32x32_block0", "32x32_block3", "16x16_down"]
    assert fastgen_peer.renamed_blocks(names, 4) == names
    with pytest.raises(ValueError, match="num_blocks is 5"):
        fastgen_peer.renamed_blocks(names, 5)


def test_the_discriminator_reads_the_widest_levels():
    assert fastgen_peer.feature_levels((1, 2, 2)) == [1, 2]
    assert fastgen_peer.feature_levels((2, 2, 2)) == [0, 1, 2]


def test_passes_of_a_cycle():
    alone = fastgen_cycle.expected_passes("dmd2_without_gan", 1)
    assert sum(n for key, n in alone.items() if key.endswith("encoder forward")) == 5
    assert "teacher encoder backward" not in alone
    five = fastgen_cycle.expected_passes("f_distill", 5)
    assert five["teacher encoder forward"] == 11 and five["fake decoder backward"] == 5
    assert fastgen_cycle.different_passes(five, five) == []
    assert fastgen_cycle.different_passes({"a": 1}, {"a": 2, "b": 1}) == ["a: 1 and 2", "b: 0 and 1"]


def test_the_table_has_ratios_and_failures():
    times = {"ms": 10.0, "ms_of_each_repeat": [9.0, 10.0, 12.0], "images_per_second": 25600.0, "peak_gib": None}
    text = fastgen_cycle.table(
        [
            {"method": "dmd2", "side": "jaxdiv"} | times,
            {"method": "dmd2", "side": "FastGen, bare"} | times | {"ms": 25.0, "tflop": 3.0},
            {"method": "dmd2", "side": "FastGen, compiled", "error": "RuntimeError: no"},
        ]
    ).splitlines()
    assert text[1].split()[-2:] == ["-", "1.00"] and text[2].split()[-2:] == ["3.00", "2.50"]
    assert text[3].endswith("failed: RuntimeError: no")


def test_a_child_gives_its_last_line_or_its_error():
    assert fastgen_cycle.child([sys.executable, "-c", "print('x'); print('{\"ms\": 1}')"], 60) == {"ms": 1}
    failed = fastgen_cycle.child([sys.executable, "-c", "raise SystemExit('no device')"], 60)
    assert failed == {"error": "no device"} and json.dumps(failed)
